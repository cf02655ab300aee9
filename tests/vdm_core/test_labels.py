import pytest
import torch

from vdm_core.labels import check_labels


def test_classes_and_no_label_pass():
    check_labels(None, None)
    check_labels(None, 10)
    check_labels(torch.tensor([-1, -1]), None)
    check_labels(torch.tensor([-1, 0, 9]), 10)


@pytest.mark.parametrize("label", [10, -2])
def test_out_of_range_names_the_label_and_the_classes(label):
    with pytest.raises(ValueError, match=f"label {label} is none of 10 classes"):
        check_labels(torch.tensor([3, label]), 10)


def test_label_for_an_unconditional_network_is_refused():
    with pytest.raises(ValueError, match="label 3: this network has no classes"):
        check_labels(torch.tensor([-1, 3]), None)


def test_other_integers_are_refused():
    with pytest.raises(ValueError, match="int64"):
        check_labels(torch.tensor([1], dtype=torch.int32), 10)
