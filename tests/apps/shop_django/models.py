"""The tables."""

from __future__ import annotations

from django.db import models


class Product(models.Model):
    name = models.CharField(max_length=50)
    category = models.CharField(max_length=50, db_index=True)
    price = models.IntegerField()
    stock = models.IntegerField()
    version = models.IntegerField(default=1)


class User(models.Model):
    name = models.CharField(max_length=50)
    version = models.IntegerField(default=1)


class Order(models.Model):
    user = models.ForeignKey(User, models.PROTECT)
    product = models.ForeignKey(Product, models.PROTECT)
    quantity = models.IntegerField()
