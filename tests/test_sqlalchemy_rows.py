"""Rows and bulk statements of bound sessions: `tables=` invalidates without any decorator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sql_shop import memory_engine
from sqlalchemy import ForeignKey, String, delete, insert, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship, sessionmaker

from cacheside import Cache, ConfigurationError
from cacheside.integrations.sqlalchemy import bind, table_tag


class Base(DeclarativeBase):
    """The tables of this file."""


class Person(Base):
    """A row with a key that may change, a property, and rows that depend on it."""

    __tablename__ = "people"

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(10), default="person")
    email: Mapped[str | None]
    pets: Mapped[list[Pet]] = relationship(cascade="all, delete-orphan")

    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "person"}  # noqa: RUF012  # SQLAlchemy's

    @property
    def mailbox(self) -> str:
        """Made from a column."""
        assert self.email is not None
        return self.email.lower()

    def keys(self) -> list[str]:
        """All keys that show it."""
        return [f"person:{self.id}", f"mail:{self.mailbox}"]


class Author(Person):
    """Has a table of its own besides."""

    __tablename__ = "authors"

    id: Mapped[int] = mapped_column(ForeignKey("people.id"), primary_key=True)
    pen_name: Mapped[str]

    __mapper_args__ = {"polymorphic_identity": "author"}  # noqa: RUF012  # SQLAlchemy's


class Pet(Base):
    """A row that knows nothing of its person but the number."""

    __tablename__ = "pets"

    id: Mapped[int] = mapped_column(primary_key=True)
    person_id: Mapped[int | None] = mapped_column(ForeignKey("people.id"))


class Stray(Base):
    """Not in `tables`."""

    __tablename__ = "strays"
    __table_args__ = {"schema": None}  # noqa: RUF012  # SQLAlchemy's

    id: Mapped[int] = mapped_column(primary_key=True)


class Kennel:
    """A database with one person and a pet, and sessions that are bound."""

    def __init__(self) -> None:
        self.engine = memory_engine()
        Base.metadata.create_all(self.engine)
        self.cache = Cache("memory://")
        self.sessions: sessionmaker[Session] = sessionmaker(self.engine)
        bind(self.sessions, self.cache, tables={Person: Person.keys, Pet: lambda pet: f"pet:{pet.id}"})
        with Session(self.engine) as session:
            session.add(Person(id=1, email="Ada", pets=[Pet(id=1)]))
            session.add(Author(id=2, email="bo", pen_name="B"))
            session.commit()

    def held(self, session: Session) -> set[str]:
        """What the transaction of `session`, which is ended, has held."""
        session.flush()
        keys = set(self.cache._core.held.counts)
        session.rollback()
        return keys


@pytest.fixture
def kennel() -> Iterator[Kennel]:
    """One."""
    made = Kennel()
    yield made
    assert made.cache._core.held.counts == {}
    made.engine.dispose()


def test_rows(kennel: Kennel) -> None:
    """Keys of inserted, changed and deleted rows are held for the commit; of changed columns also the old ones."""
    with kennel.sessions() as session:
        session.add_all([Person(email="Cy"), Stray()])
        assert kennel.held(session) == {"person:3", "mail:cy"}
        session.get_one(Person, 1).email = "Eve"
        assert kennel.held(session) == {"person:1", "mail:eve", "mail:ada"}
        session.delete(session.get_one(Person, 1))
        assert kennel.held(session) == {"person:1", "mail:ada", "pet:1"}


def test_rows_that_were_read(kennel: Kennel) -> None:
    """A row that was only read, or written to without a change, has no keys held."""
    with kennel.sessions() as session:
        session.get_one(Person, 2)
        session.get_one(Person, 1).email = "Ada"
        session.get_one(Pet, 1).id = 1
        assert session.dirty
        assert kennel.held(session) == set()


def test_delivered_with_the_commit(kennel: Kennel) -> None:
    """They are delivered at the commit."""
    emails = kennel.cache.cached("person:{person_id}")(lambda person_id: email_of(kennel, person_id))
    assert emails(1) == "Ada"
    with kennel.sessions.begin() as session:
        session.get_one(Person, 1).email = "Eve"
        assert emails(1) == "Ada"
    assert emails(1) == "Eve"


def email_of(kennel: Kennel, person_id: int) -> Any:
    """As it is stored."""
    with kennel.engine.connect() as connection:
        return connection.execute(text("SELECT email FROM people WHERE id = :id"), {"id": person_id}).scalar()


def test_orphans_and_foreign_keys(kennel: Kennel) -> None:
    """Rows that the unit of work writes by itself count: a new foreign key, an orphan that is deleted.

    A row whose collection changed counts as well.
    """
    with kennel.sessions() as session:
        person = session.get_one(Person, 1)
        person.pets.clear()
        assert kennel.held(session) == {"pet:1", "person:1", "mail:ada"}
        stray = Pet(id=5)
        session.add(stray)
        session.flush()
        other = session.get_one(Person, 2)
        other.pets.append(stray)
        assert kennel.held(session) == {"pet:5", "person:2", "mail:bo"}


def test_derived_classes(kennel: Kennel) -> None:
    """What derives from a class in `tables` has its keys."""
    with kennel.sessions() as session:
        session.get_one(Author, 2).pen_name = "Bo"
        assert kennel.held(session) == {"person:2", "mail:bo"}


def test_derived_classes_that_are_named(kennel: Kennel) -> None:
    """A row has the keys of every class of its own that is in `tables`, and of no other."""
    sessions: sessionmaker[Session] = sessionmaker(kennel.engine)
    bind(sessions, kennel.cache, tables={Person: Person.keys, Author: lambda author: f"author:{author.id}"})
    with sessions() as session:
        session.get_one(Author, 2).email = "Bob"
        assert kennel.held(session) == {"person:2", "mail:bob", "mail:bo", "author:2"}
        session.add(Author(email="Cy", pen_name="C"))
        assert kennel.held(session) == {"person:3", "mail:cy", "author:3"}
        session.get_one(Person, 1).email = "Eve"
        assert kennel.held(session) == {"person:1", "mail:eve", "mail:ada"}


def test_old_values_without_a_key(kennel: Kennel, caplog: pytest.LogCaptureFixture) -> None:
    """If no key can be made of the old values that is logged, and the write goes on; of the new ones it raises."""
    with kennel.sessions() as session:
        session.execute(text("UPDATE people SET email = NULL WHERE id = 1"))
        session.get_one(Person, 1).email = "Eve"
        assert kennel.held(session) == {"person:1", "mail:eve"}
        assert "no keys of a Person as it was before" in caplog.text
        session.get_one(Person, 1).email = None
        with pytest.raises(AssertionError):
            session.flush()
        session.rollback()


def test_rolled_back_savepoint(kennel: Kennel) -> None:
    """Rows flushed in a savepoint that is rolled back are not invalidated by the commit."""
    with kennel.sessions() as session:
        session.get_one(Person, 1).email = "Eve"
        with session.begin_nested() as savepoint:
            session.get_one(Person, 2).email = "dee"
            session.flush()
            assert "person:2" in kennel.cache._core.held.counts
            savepoint.rollback()
        assert kennel.cache.stats().rolled_back == 3
        session.commit()
    assert kennel.cache.stats().invalidations == 3


def test_flush_that_fails(kennel: Kennel) -> None:
    """Rows that a flush had written before it failed are not invalidated by what comes after it."""
    with kennel.sessions() as session:
        savepoint = session.begin_nested()
        session.get_one(Person, 1).email = "Eve"
        session.add(Pet(id=1))
        with pytest.raises(IntegrityError):
            session.flush()
        savepoint.rollback()
        session.get_one(Person, 2).email = "dee"
        session.commit()
    assert kennel.cache.stats().invalidations == 3


@pytest.mark.parametrize(
    ("statement", "tags"),
    [
        (update(Person).values(email="x"), {"people"}),
        (delete(Pet).where(Pet.id == 1), {"pets"}),
        (insert(Pet).values(id=8), {"pets"}),
        (insert(Pet).values(id=8).returning(Pet), {"pets"}),
        (select(Pet).from_statement(insert(Pet).values(id=8).returning(Pet)), {"pets"}),
        (update(Pet.__table__).values(person_id=2), {"pets"}),  # type: ignore[arg-type]  # typed as a FromClause
        (update(Author).values(pen_name="x"), {"people"}),
        (delete(Stray), set()),
        (select(Pet), set()),
    ],
    ids=str,
)
def test_bulk_statements(kennel: Kennel, statement: Any, tags: set[str]) -> None:
    """A bulk statement turns the tag of each table that is in `tables`; as the first statement of a session too."""
    with kennel.sessions() as session:
        session.execute(statement)
        assert kennel.held(session) == {f"%tag:table:{name}" for name in tags}


def test_bulk_statements_of_queries(kennel: Kennel) -> None:
    """The older form of them is seen as well."""
    with kennel.sessions() as session:
        session.query(Pet).filter(Pet.id == 1).update({"person_id": 2})
        assert kennel.held(session) == {"%tag:table:pets"}
        session.query(Pet).delete()
        assert kennel.held(session) == {"%tag:table:pets"}


def test_bulk_without_autobegin(kennel: Kennel) -> None:
    """A session that begins nothing by itself is not made to."""
    from sqlalchemy.exc import InvalidRequestError

    with kennel.sessions(autobegin=False) as session:
        with pytest.raises(InvalidRequestError, match="Autobegin is disabled"):
            session.execute(delete(Pet))
        with session.begin():
            session.execute(delete(Pet))
            assert kennel.cache._core.held.counts == {"%tag:table:pets": 1}


def test_tag_of_a_table(kennel: Kennel) -> None:
    """Functions with the tag of a table are invalidated by a bulk statement, at its commit."""

    @kennel.cache.cached("emails", tags=(table_tag(Person),))
    def emails() -> Any:
        return email_of(kennel, 1)

    assert emails() == "Ada"
    with kennel.sessions.begin() as session:
        session.execute(update(Person).values(email="x"))
    assert emails() == "x"


def test_names_of_tags() -> None:
    """The tag has the name of the table; what is mapped to none has none."""
    assert table_tag(Person) == "table:people"
    assert table_tag(Author) == "table:authors"

    class Away(Base):
        __tablename__ = "Far Away"
        __table_args__ = {"schema": "else"}  # noqa: RUF012  # SQLAlchemy's
        id: Mapped[int] = mapped_column(primary_key=True)

    assert table_tag(Away) == "table:else.Far%20Away"
    Base.metadata.remove(Away.__table__)  # type: ignore[arg-type]  # typed as a FromClause
    with pytest.raises(ConfigurationError, match="is not a mapped class"):
        table_tag(str)


@pytest.mark.parametrize(
    ("tables", "message"),
    [({str: str}, "is not a mapped class"), ({Person: "person:{id}"}, "give a callable")],
)
def test_tables_that_cannot_be(tables: Any, message: str) -> None:
    """What is no mapped class, and what is no callable, is refused when bound."""
    with pytest.raises(ConfigurationError, match=message):
        bind(sessionmaker(), Cache("memory://"), tables=tables)


def test_texts_that_are_no_keys(kennel: Kennel) -> None:
    """A text that can be no key raises at the flush, before anything is committed."""
    from cacheside import InvalidKeyError

    bind(kennel.sessions, Cache("memory://"), tables={Person: lambda person: "no key"})
    with kennel.sessions() as session:
        session.get_one(Person, 1).email = "Eve"
        with pytest.raises(InvalidKeyError):
            session.commit()
        session.rollback()
    assert email_of(kennel, 1) == "Ada"


def test_several_caches(kennel: Kennel) -> None:
    """A maker may be bound to several caches, each with keys of its own."""
    second = Cache("memory://")
    bind(kennel.sessions, second, tables={Pet: lambda pet: ["pets"]})
    with kennel.sessions() as session:
        session.get_one(Pet, 1).person_id = 2
        session.flush()
        assert second._core.held.counts == {"pets": 1}
        assert kennel.held(session) == {"pet:1"}
    assert second._core.held.counts == {}
