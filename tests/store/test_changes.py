"""Learning of writes by other processes."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from hyperplug.store import Store, open_store
from tests.conftest import running_postgres, url_of
from tests.store import worker
from tests.store.samples import add, execute


def test_a_write_of_another_process_is_told_within_a_second(store: Store, url: str) -> None:
    with store.watch() as feed:
        assert not feed.wait(0)
        started = threading.Timer(0.3, lambda: add(store, "a"))
        began = time.monotonic()
        started.start()
        assert feed.wait(10)
        assert time.monotonic() - began < 0.3 + 1.0
        assert not feed.wait(0)
        worker.finish(worker.start("add", url, "b", "1", "0", "0"))
        assert feed.wait(1)
        assert not feed.wait(0)


def test_nothing_is_told_where_nothing_is_written(store: Store) -> None:
    add(store, "a")
    with store.watch() as feed:
        store.list_tasks(namespace="default")
        began = time.monotonic()
        assert not feed.wait(0.5)
        assert 0.4 < time.monotonic() - began < 2


@pytest.mark.postgres
def test_a_connection_that_breaks_is_made_again(postgres_url: str) -> None:
    store = open_store(postgres_url)
    with store.watch() as feed:
        execute(
            postgres_url,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        add(store, "a")
        assert feed.wait(5)
        assert not feed.wait(0)
        add(store, "b")
        assert feed.wait(5)
    store.close()


@pytest.mark.postgres
def test_a_server_that_goes_while_it_is_listened_to_is_waited_for() -> None:
    """Stopped in the middle of a wait, which is where a feed spends its time."""
    with running_postgres() as server:
        store = open_store(url_of(server))
        with store.watch() as feed, ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(feed.wait, 5)
            time.sleep(0.5)
            server.stop()
            assert not waiting.result()
            assert feed.away
            server.ensure_postgres_running()
            assert not feed.wait(1)
            assert not feed.away
            add(store, "a")
            assert feed.wait(5)
        store.close()
