import pytest

MACHINE = {"python": "3", "ptune": "0", "cpu": "a CPU", "threads": 1, "cores": 2}


@pytest.fixture
def gpu():
    import gpu

    return gpu


def side(seconds, computed):
    return {
        "seconds": seconds,
        "fastest": seconds,
        "slowest": seconds,
        "computed": computed,
        "peak_bytes": 3e9,
        "losses": [12.0, 11.5],
    }


def test_utilisation_is_the_floor_over_the_seconds(gpu):
    line = {
        "shape": "llama 1 B",
        "batch": 32,
        "gpu": "a GPU",
        "slots": 20,
        "steps": 20,
        "floor_seconds": 0.02,
        "gflops": {"small": 1e5, "large": 5e5},
        "ptune": side(0.05, 900),
        "peft": side(0.2, 2400),
        "machine": MACHINE,
    }
    table = gpu.table([line])
    assert "| llama 1 B | ptune | 0.0500 | 0.0500 .. 0.0500 | 900 | 40.0 | 4.0 | 3.00 |" in table
    assert "| llama 1 B | peft | 0.2000 | 0.2000 .. 0.2000 | 2,400 | 10.0 | 1.0 | 3.00 |" in table
    assert "matrix peak in TFLOP/s: 500;" in table


def test_without_a_gpu_the_script_ends_with_a_sentence(gpu, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "gpu_name", lambda: None)
    monkeypatch.setattr(gpu, "require_peft", lambda: None)
    monkeypatch.setattr("sys.argv", ["gpu.py"])
    with pytest.raises(SystemExit) as end:
        gpu.main()
    assert end.value.code == 0
    assert capsys.readouterr().err == (
        "There is no GPU here, so nothing is measured. --device cpu --quick tries the script.\n"
    )
