"""`python -m shop_django`: make the tables, with 20 products in two categories and 10 users."""

from django.core.management import call_command

from .settings import application  # sets Django up


def main() -> None:
    from .models import Product, User

    assert application
    call_command("migrate", run_syncdb=True, interactive=False, verbosity=0)
    Product.objects.bulk_create(
        Product(name=f"product {number}", category=("books", "games")[number % 2], price=100, stock=1_000_000)
        for number in range(20)
    )
    User.objects.bulk_create(User(name=f"user {number}") for number in range(10))


main()
