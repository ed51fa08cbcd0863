"""Real races: processes that read and write a few hot rows of PostgreSQL through a cache that they share.

board.py    what all processes see: how new a read has to be, and when to stop
rows.py     the store
ways.py     the ways through the cache: cacheside, and get, set and delete by hand
judge.py    compares every read with the board
worker.py   one process
crew.py     starts the processes and collects what they report; for the tests
"""
