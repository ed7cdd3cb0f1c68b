"""``python -m deploy VERB``: run one verb and return an exit code."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any

import urllib3

from deploy.console import Reporter
from deploy.errors import INTERRUPTED, DeployError, exit_code
from deploy.settings import Doctor, Down, Explain, Key, Logs, Predict, Status, Up, read_verb
from deploy.verbs import doctor, down, explain, key, logs, predict, status, up

_VERBS: dict[type[Any], Callable[[Any, Reporter], None]] = {
    Up: up.run,
    Doctor: doctor.run,
    Status: status.run,
    Explain: explain.run,
    Predict: predict.run,
    Logs: logs.run,
    Down: down.run,
    Key: key.run,
}


def main(arguments: list[str] | None = None, reporter: Reporter | None = None) -> int:
    """Run the verb. An error is one sentence on stderr."""
    reporter = reporter or Reporter()
    # urllib3 logs each retry. Our own error reports the result.
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    # A kubeconfig may disable verification. kubectl does not warn about it either.
    urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
    try:
        verb = read_verb(sys.argv[1:] if arguments is None else arguments)
        _VERBS[type(verb)](verb, reporter)
    except DeployError as error:
        reporter.complain(str(error))
        return exit_code(error)
    except KeyboardInterrupt:
        reporter.complain(
            "interrupted. Everything stays as it is on the cluster and continues there. "
            "`python -m deploy status` shows its state; run `up` again to resume the wait."
        )
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
