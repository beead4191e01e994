"""Train the small run of ``old_runs`` with the Headway that is on the path, and pack what the tests read.

``python make_run.py NAME`` writes NAME.zip beside this file. A file that is there is never made again: it is what a
Headway of its day wrote. A new one is due when a run's files change.
"""

import sys
import tempfile
import zipfile
from pathlib import Path

HERE = Path(__file__).parent
MEASURED = ("loss", "attention", "previous_token", "rank_95")
LEFT_OUT = ("report.html", "resume.ckpt", "hparams.yaml", ".lock")


def main() -> None:
    """Train three updates of a tiny network."""
    from headway.analyze import MEASURES
    from headway.checkpoints.schedule import Schedule
    from headway.data.previous_token import PreviousToken
    from headway.models.config import ModelConfig
    from headway.models.optim import OptimConfig
    from headway.train import train

    target = HERE / f"{sys.argv[1]}.zip"
    if target.exists():
        sys.exit(f"{target} is there")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        train(
            task=PreviousToken(n_tokens=6, length=5),
            model=ModelConfig(
                n_layers=2, d_model=5, n_ctx=5, d_head=3, n_heads=2, d_vocab=7, attn_only=True, initializer_range=0.3
            ),
            optim=OptimConfig(lr=0.03),
            schedule=Schedule(log=0, linear=2),
            steps=3,
            batch_size=11,
            eval_batch_size=13,
            seed=2,
            out=out,
            measures=[measure for measure in MEASURES if measure.name in MEASURED],
        )
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(out.rglob("*")):
                if file.is_file() and file.name not in LEFT_OUT and "tfevents" not in file.name:
                    archive.write(file, str(file.relative_to(out)))


if __name__ == "__main__":
    main()
