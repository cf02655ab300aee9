"""The journal keeps whole lines whole, whatever happened to their neighbours."""

from pipeline.tracking import read_records
from pipeline.tracking.journal import Journal


def test_torn_lines_do_not_hide_their_neighbours(tmp_path, caplog):
    """A line cut by a crash is left out with a warning; the lines around it are read."""
    path = tmp_path / "journal.jsonl"
    Journal(path).append({"step": 1, "values": {"a": 1.0}})
    with path.open("ab") as file:
        file.write(b'{"step": 2, "val')
    journal = Journal(path)
    assert journal.read(0)[0] == [{"step": 1, "values": {"a": 1.0}}]
    journal.append({"step": 3, "values": {"a": 3.0}})
    records, end = journal.read(0)
    assert [record["step"] for record in records] == [1, 3]
    assert end == path.stat().st_size
    assert "damaged line" in caplog.text
    assert [record["step"] for record in read_records(path)] == [1, 3]
    assert list(read_records(tmp_path / "absent.jsonl")) == []


def test_marks_belong_to_one_run_and_one_journal(tmp_path):
    """What another run has, or a mark past the end of a shorter journal, counts for nothing."""
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append({"step": 1, "values": {"a": 1.0}})
    _, end = journal.read(0)
    journal.mark_sent("run", {"values": end})
    assert journal.sent("run") == {"values": end}
    assert journal.sent("another") == {}
    journal.path.write_bytes(b"")
    assert journal.sent("run") == {}
