"""The ELBO figure of a run that was interrupted is that of one which was not."""

from pipeline.training.elbo_history import ElboHistory

TERMS = ("prior", "diffusion")


def record(step: int, prior: float, diffusion: float) -> dict:
    return {"step": step, "values": {"train/prior": prior, "train/diffusion": diffusion, "a": 0.0}}


def test_history_goes_on_where_the_journal_ends() -> None:
    """Steps since the checkpoint stand once, as computed last; other lines do not matter."""
    journal = [record(10, 1.0, 4.0), {"artifact": "a.png"}, record(20, 9.0, 9.0)]
    journal.append({"step": 15, "values": {"train/prior": 0.0}})
    history = ElboHistory(TERMS, journal)
    for step, diffusion in ((20, 3.0), (30, 2.0)):
        history.add(step, record(step, 0.5, diffusion)["values"])
    assert history.curves() == (
        [10, 20, 30],
        {"prior": [1.0, 0.5, 0.5], "diffusion": [4.0, 3.0, 2.0]},
    )
