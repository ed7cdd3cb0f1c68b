"""Kubernetes quantities: parsing and canonical form."""

from __future__ import annotations

from decimal import Decimal

from kubernetes.utils import parse_quantity

Quantity = str | int | float
DECIMAL = ["", "k", "M", "G", "T", "P", "E"]
BINARY = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"]


def number(quantity: Quantity) -> Decimal:
    """The value; raises ValueError if Kubernetes cannot parse the quantity."""
    value = parse_quantity(str(quantity))
    assert isinstance(value, Decimal)
    return value


def canonical(quantity: Quantity) -> str:
    """The form in which Go serialises a quantity: `1` for 1, `500m` for 0.5.

    https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
    """
    value = number(quantity)
    if value != value.to_integral_value():
        return f"{int(value * 1000)}m"
    suffixes, base = (BINARY, 1024) if str(quantity).endswith("i") else (DECIMAL, 1000)
    whole, power = int(value), 0
    while whole and whole % base == 0 and power < len(suffixes) - 1:
        whole, power = whole // base, power + 1
    return f"{whole}{suffixes[power]}"
