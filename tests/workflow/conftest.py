"""Fixtures of the workflow tests: the miniature challenge and one finished run of the DAG on it."""

from __future__ import annotations

import pytest

from unmask.demo import DemoSummary, build_demo

from running import Finished, Workflow, clone, roots


@pytest.fixture(scope="session")
def challenge(tmp_path_factory: pytest.TempPathFactory) -> DemoSummary:
    return build_demo(tmp_path_factory.mktemp("challenge") / "demo")


@pytest.fixture(scope="session")
def workflow(tmp_path_factory: pytest.TempPathFactory) -> Workflow:
    return clone(tmp_path_factory.mktemp("clone") / "unmask")


@pytest.fixture(scope="session")
def finished(
    tmp_path_factory: pytest.TempPathFactory, workflow: Workflow, challenge: DemoSummary
) -> Finished:
    """The demo as a user runs it, in a directory of its own; tests must leave it as it is."""
    output = tmp_path_factory.mktemp("finished")
    config = roots(challenge)
    workflow.finish(directory=output, config=config)
    return Finished(workflow, output, config, challenge)
