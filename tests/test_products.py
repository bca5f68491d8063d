"""Products of two tensors as products of matrices, in NumPy, and why others are none."""

from __future__ import annotations

import numpy as np
import pytest

from amct_tensorflow.products import Product, product_of

SIZES = dict(zip("abcdef", (2, 3, 4, 5, 6, 7), strict=True))

EQUATIONS = [
    *("ab,bc->ac", "ba,bc->ac", "ab,cb->ac", "ab,bc->ca"),
    *("abc,cd->abd", "abc,cde->abde", "abcd,cde->abe", "abc,dc->adb", "abc,cde->dabe"),
    *("abcd,aecd->acbe", "acbe,aecd->abcd", "abc,abd->acd", "abc,bcd->abd", "abcd,dbe->aceb"),
    *("abc,c->ab", "a,ab->b", "a,a->", "abcd,cdab->", "abcd,bedf->ecfa"),
]


def _of(equation: str) -> Product | str:
    operands, result = equation.split("->")
    first, second = operands.split(",")
    return product_of(first, second, result)


def _operands(equation: str) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.standard_normal([SIZES[label] for label in term]) for term in equation.split("->")[0].split(",")]


@pytest.mark.parametrize("equation", EQUATIONS)
def test_the_matrices_make_the_result(equation):
    product, (data, other) = _of(equation), _operands(equation)
    assert isinstance(product, Product)
    ordered = data.transpose(product.data_order)
    batch, rows = ordered.shape[: product.batch], ordered.shape[product.batch : product.batch + product.rows]
    columns = product.column_sizes(other.shape)
    matrices = other.transpose(product.other_order).reshape(product.other_matrix(other.shape))
    result = ordered.reshape([*batch, int(np.prod(rows)), matrices.shape[-2]]) @ matrices
    result = result.reshape([*batch, *rows, *columns]).transpose(product.result_order)
    np.testing.assert_allclose(result, np.einsum(equation, data, other), rtol=1e-9, atol=1e-9)


COLUMN_AXES = {
    "ab,bc->ac": 1,
    "ab,bc->ca": 0,
    "abc,cde->abde": 2,
    "abc,cde->adeb": 1,
    "abc,cde->abed": 2,
    "abc,cde->dabe": None,
    "abc,c->ab": None,
}


@pytest.mark.parametrize("equation", COLUMN_AXES)
def test_where_the_columns_are(equation):
    product = _of(equation)
    assert isinstance(product, Product)
    assert product.column_axis() == COLUMN_AXES[equation]


NONE = {
    "aab,bc->ac": "it takes a diagonal, 'a' is there twice",
    "ab,bc->aca": "it takes a diagonal, 'a' is there twice",
    "ab,bcc->a": "it takes a diagonal, 'c' is there twice",
    "abc,bd->ad": "it sums over 'c', which only one operand has",
    "ab,bcd->ac": "it sums over 'd', which only one operand has",
    "a,b->ab": "it sums over no axis that both operands have, so it is no product of matrices",
    "ab,ab->ab": "it sums over no axis that both operands have, so it is no product of matrices",
}


@pytest.mark.parametrize("equation", NONE)
def test_what_is_no_product_of_matrices(equation):
    assert _of(equation) == NONE[equation]
