"""The launcher: the few shell lines that start every attempt, in any image with ``/bin/sh``.

They take the claim (so an attempt never runs twice), open the log with O_APPEND, and become the job's program, which
therefore gets its signals directly and writes its log without any pipe in between.
"""

CLAIMED_EXIT_CODE = 97
"""The launcher's exit code when another process already holds the claim."""

UNWRITABLE_EXIT_CODE = 98
"""The launcher's exit code when its user may not write into the run directory."""

DISK_FULL_EXIT_CODE = 96
"""saeforge's own worker could not even write how it ended, for want of disk space."""

_SCRIPT = r"""
set -C
if ! { echo "$$" > "$1/claim"; } 2>/dev/null; then
  if [ ! -e "$1/claim" ]; then
    echo "saeforge: user $(id -u) may not write into $1" >&2
    exit 98
  fi
  echo "saeforge: this attempt was started before; refusing to run it twice" >&2
  exit 97
fi
set +C
if [ "$2" = mirror ]; then tail -c +1 -f "$1/log" 2>/dev/null & fi
log="$1/log"
shift 2
exec "$@" >> "$log" 2>&1
"""


def launcher_argv(run_dir: str, argv: tuple[str, ...], *, mirror: bool) -> list[str]:
    """The argv that claims ``run_dir``, sends output to its log, and runs ``argv`` in this very process.

    With ``mirror`` the log is also copied to the original standard output, so that ``docker logs`` shows something;
    the copy is a convenience and may miss the last lines. Exit code is the program's own, 97 when the claim was
    taken, 98 when the run directory cannot be written, 126/127 when the program cannot be run.
    """
    return ["/bin/sh", "-c", _SCRIPT, "saeforge", run_dir, "mirror" if mirror else "quiet", *argv]
