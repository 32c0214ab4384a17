import pytest
import torch

from augmint.segmentation.loss import annotated_classes, dice_ce, merge_unknown

K = 3


def logits_of(seed=0, *, count=2):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, K, 6, 5, generator=generator, dtype=torch.float64)


def known(*annotated):
    return annotated_classes([frozenset(classes) for classes in annotated], K)


def test_the_background_is_always_known():
    table = known({1}, {1, 2}, set())
    assert table.tolist() == [[True, True, False], [True, True, True], [True, False, False]]


def test_merging_moves_probability_into_the_background():
    logits = logits_of()
    p = logits.softmax(1)
    q = merge_unknown(logits, known({1}, {1, 2})).softmax(1)
    torch.testing.assert_close(q[0, 0], p[0, 0] + p[0, 2])
    torch.testing.assert_close(q[0, 1], p[0, 1])
    assert float(q[0, 2].max()) == 0.0
    torch.testing.assert_close(q[1], p[1])


def test_predicting_an_unannotated_class_on_background_costs_nothing():
    target = torch.zeros(1, 6, 5, dtype=torch.long)
    target[:, :2] = 1
    logits = torch.zeros(1, K, 6, 5, dtype=torch.float64)
    logits[:, 1, :2] = logits[:, 0, 2:] = 20.0
    unknown = logits.clone()
    unknown[:, 2, 2:], unknown[:, 0, 2:] = 20.0, 0.0
    ignored = dice_ce(unknown, target, known({1}))
    torch.testing.assert_close(ignored, dice_ce(logits, target, known({1})))
    assert dice_ce(unknown, target, known({1, 2})) > ignored + 1


def test_no_gradient_moves_background_against_an_unannotated_class():
    """Whatever the target: moving probability between the two leaves the loss as it is."""
    logits = logits_of(count=1).requires_grad_()
    target = torch.randint(0, 2, (1, 6, 5), generator=torch.Generator().manual_seed(1))
    dice_ce(logits, target, known({1})).backward()
    p = logits.detach().softmax(1)
    # The gradient by a merged probability's logit is shared in proportion to its parts.
    share = logits.grad[:, 0] * p[:, 2] - logits.grad[:, 2] * p[:, 0]
    torch.testing.assert_close(share, torch.zeros_like(share))
    logits.grad = None
    dice_ce(logits, target, known({1, 2})).backward()
    assert (logits.grad[:, 0] * p[:, 2] - logits.grad[:, 2] * p[:, 0]).abs().max() > 1e-4


def test_an_annotated_class_is_taught_against_the_merged_background():
    logits = logits_of(count=1).requires_grad_()
    target = torch.ones(1, 6, 5, dtype=torch.long)
    dice_ce(logits, target, known({1})).backward()
    assert bool((logits.grad[:, 1] < 0).all())
    assert bool((logits.grad[:, [0, 2]] > 0).all())


def test_a_label_outside_the_annotated_ones_counts_as_background():
    logits = logits_of(count=1)
    two, zero = torch.full((1, 6, 5), 2), torch.zeros(1, 6, 5, dtype=torch.long)
    torch.testing.assert_close(dice_ce(logits, two, known({1})), dice_ce(logits, zero, known({1})))


def test_fully_annotated_samples_are_as_without_merging():
    logits, target = logits_of(), torch.randint(0, K, (2, 6, 5))
    both = known({1, 2}, {1, 2})
    torch.testing.assert_close(
        dice_ce(logits, target, both), dice_ce(merge_unknown(logits, both), target, both)
    )


def test_golden_value_of_a_uniform_prediction():
    target = torch.zeros(1, 2, 2, dtype=torch.long)
    target[0, 0] = torch.tensor([1, 2])
    loss = dice_ce(torch.zeros(1, K, 2, 2, dtype=torch.float64), target, known({1, 2}))
    dice = (2 / 3 + 1) / (1 + 4 / 3 + 1)  # one voxel of each class, a third found everywhere
    assert float(loss) == pytest.approx((torch.log(torch.tensor(3.0)).item() + 1 - dice) / 2)


@pytest.mark.parametrize("annotated", [{1, 2}, {1}, set()])
def test_loss_and_gradient_are_finite_for_extreme_logits(annotated):
    logits = (logits_of(count=1).float() * 200).requires_grad_()
    loss = dice_ce(logits, torch.zeros(1, 6, 5, dtype=torch.long), known(annotated))
    loss.backward()
    assert bool(loss.isfinite())
    assert bool(logits.grad.isfinite().all())
