"""The loss record: its total and its unit of display."""

import math

import torch

from vdm_core.records import ElboTerms


def test_total_is_the_sum_of_the_terms_and_bits_per_dim_divides_by_dims_and_ln_2() -> None:
    terms = ElboTerms(torch.tensor([1.0, 2.0]), torch.tensor([0.5, 0.0]), torch.tensor([3.0, 4.0]))
    torch.testing.assert_close(terms.total, torch.tensor([4.5, 6.0]))
    torch.testing.assert_close(
        terms.bits_per_dim(12), torch.tensor([4.5, 6.0]) / 12 / math.log(2.0)
    )
