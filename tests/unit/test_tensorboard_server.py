"""TensorBoard as a process: found again, stopped, cleaned."""

import urllib.request

from sftplay_ui.engine.tensorboard_server import TensorBoard


def test_it_starts_answers_is_found_again_and_stops(workspace):
    board = TensorBoard(workspace)
    assert board.url() is None
    url = board.start()
    try:
        assert url.startswith("http://127.0.0.1:")
        assert TensorBoard(workspace).url() == url
        assert TensorBoard(workspace).start() == url
        with urllib.request.urlopen(url, timeout=30) as answer:
            assert answer.status == 200
    finally:
        assert board.stop()
    assert board.url() is None
    assert not board.stop()


def test_cleaning_deletes_the_logs_of_runs(workspace):
    (workspace.outputs / "tb" / "my-run").mkdir(parents=True)
    assert TensorBoard(workspace).clean() == 1
    assert list((workspace.outputs / "tb").iterdir()) == []
