import time


def test_try(tiny, small_facts, small_config, tmp_path):
    from mechmask import MaskStudy

    t = time.time()
    s = MaskStudy(tiny("llama"), small_facts, small_config)
    r = s.run(tmp_path / "run")
    print(time.time() - t)
    t = time.time()
    r = s.run(tmp_path / "run")
    print(time.time() - t)
    print(r.tree)
    print(r.conclusion())
    print(r.summary().T)
    import os

    os.system(f"find {tmp_path} -type f | sort | head -150")
    from mechmask import study_status

    for row in study_status(tmp_path / "run"):
        print(row)
