"""The log of decisions and feedback in a database (SQLite or PostgreSQL), by SQLAlchemy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import (
    URL,
    Column,
    Connection,
    Engine,
    Float,
    Integer,
    MetaData,
    RowMapping,
    String,
    Table,
    Text,
    and_,
    create_engine,
    delete,
    event,
    make_url,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError, NoSuchModuleError, SQLAlchemyError

from agent.decisions.decision import Decision, Feedback, LoggedDecision
from agent.errors import ConfigError, StoreError, one_line

_FORMS = "sqlite:///FILE, or postgresql+psycopg://USER:PASSWORD@HOST/DATABASE"
_CONNECT_S, _STATEMENT_S = 5, 20
_ROWS_AT_ONCE = 1_000


def _key() -> list[Column[Any]]:
    """What a decision is found by; columns belong to one table each."""
    return [
        Column("agent", String(64), primary_key=True),
        Column("id", String(128), primary_key=True),
        Column("position", Integer, primary_key=True),
    ]


_metadata = MetaData()
_decisions = Table(
    "bert_agent_decisions",
    _metadata,
    *_key(),
    Column("time", Float(53), nullable=False, index=True),
    Column("bundle", String(64), nullable=False),
    Column("key_id", String(64), nullable=False),
    Column("text", Text, nullable=False),
    Column("answer", Text, nullable=False),
    Column("propensity", Float(53), nullable=False),
    Column("chosen", String(16), nullable=False),
)
_feedback = Table(
    "bert_agent_feedback",
    _metadata,
    *_key(),
    Column("time", Float(53), nullable=False),
    Column("key_id", String(64), nullable=False),
    Column("reward", Float(53)),
    Column("correction", Text),
)
_same = and_(*(_decisions.c[name] == _feedback.c[name] for name in ("agent", "id", "position")))
_given = [_feedback.c[name].label(f"feedback_{name}") for name in Feedback._fields]


class Written(NamedTuple):
    """What became of decisions that were to be written: new in the log, there already, or refused by the database."""

    new: int
    known: int
    refused: int


class DecisionStore:
    """The log. Nothing is connected before its first use; safe to use from several threads.

    Args:
        url: Of the database, as SQLAlchemy takes it.

    Raises:
        ConfigError: It is no address of a database that can be used, or the database's driver is not installed.
    """

    def __init__(self, url: str) -> None:
        parsed = _parse(url)
        self.place = parsed.render_as_string(hide_password=True)
        self._engine = _open(parsed).execution_options(preserve_rowcount=True)
        self._insert = sqlite.insert if parsed.get_backend_name() == "sqlite" else postgresql.insert
        self._prepared = False

    def write(self, decisions: Sequence[Decision]) -> Written:
        """Writes decisions; those that are there already stay as they are.

        Raises:
            StoreError: The database cannot be reached, or is full; nothing was written.
        """
        rows = [decision._asdict() for decision in decisions]
        try:
            with self._begin() as connection:
                new = connection.execute(self._insert(_decisions).on_conflict_do_nothing(), rows).rowcount
        except _RowError:
            return self._write_one_by_one(rows)
        return Written(new, len(rows) - new, 0)

    def _write_one_by_one(self, rows: Sequence[dict[str, Any]]) -> Written:
        new = refused = 0
        for row in rows:
            try:
                with self._begin() as connection:
                    new += connection.execute(self._insert(_decisions).on_conflict_do_nothing(), [row]).rowcount
            except _RowError:
                refused += 1
        return Written(new, len(rows) - new - refused, refused)

    def find(self, agent: str, request_id: str, position: int) -> LoggedDecision | None:
        """A decision with its feedback; None if there is none.

        Raises:
            StoreError: The database cannot be reached.
        """
        with self._begin() as connection:
            query = _joined().where(_decisions.c.agent == agent, _decisions.c.id == request_id)
            row = connection.execute(query.where(_decisions.c.position == position)).mappings().first()
        return None if row is None else _logged(row)

    def give(self, decision: Decision, feedback: Feedback) -> Feedback | None:
        """Writes feedback on a decision, unless there is some already.

        Returns:
            None if it was written, else the feedback that is there.

        Raises:
            StoreError: The database cannot be reached, or refuses it; nothing was written.
        """
        key = {"agent": decision.agent, "id": decision.id, "position": decision.position}
        with self._begin() as connection:
            insert = self._insert(_feedback).on_conflict_do_nothing()
            if connection.execute(insert, [key | feedback._asdict()]).rowcount:
                return None
        found = self.find(decision.agent, decision.id, decision.position)
        return None if found is None else found.feedback

    def read(self, agent: str = "", *, since: float = 0) -> Iterator[LoggedDecision]:
        """The log in the order of time.

        Args:
            agent: Whose decisions; empty takes all.
            since: Seconds since the epoch from which on.

        Raises:
            StoreError: The database cannot be reached.
        """
        query = (
            _joined()
            .where(_decisions.c.time >= since)
            .order_by(_decisions.c.time, _decisions.c.id, _decisions.c.position)
        )
        if agent:
            query = query.where(_decisions.c.agent == agent)
        with self._begin() as connection:
            for row in connection.execution_options(yield_per=_ROWS_AT_ONCE).execute(query).mappings():
                yield _logged(row)

    def delete(self, request_id: str) -> int:
        """Deletes all decisions of a request with their feedback; tells how many there were.

        Raises:
            StoreError: The database cannot be reached.
        """
        with self._begin() as connection:
            connection.execute(delete(_feedback).where(_feedback.c.id == request_id))
            return connection.execute(delete(_decisions).where(_decisions.c.id == request_id)).rowcount

    def delete_before(self, time: float) -> int:
        """Deletes all decisions that were answered before a time, with their feedback; tells how many there were.

        Raises:
            StoreError: The database cannot be reached.
        """
        old = select(1).where(_same, _decisions.c.time < time)
        with self._begin() as connection:
            connection.execute(delete(_feedback).where(old.exists()))
            return connection.execute(delete(_decisions).where(_decisions.c.time < time)).rowcount

    def close(self) -> None:
        """Closes its connections."""
        self._engine.dispose()

    @contextmanager
    def _begin(self) -> Iterator[Connection]:
        """A transaction; the first one makes the tables."""
        try:
            if not self._prepared:
                self._prepare()
            with self._engine.begin() as connection:
                yield connection
        except (DataError, IntegrityError) as error:
            raise _RowError(f"the decision store {self.place} refuses a value ({_reason(error)})") from None
        except SQLAlchemyError as error:
            self._prepared = False  # another database may stand there when it is back
            raise StoreError(
                f"the decision store {self.place} cannot be used ({_reason(error)})",
                remedy="see that the database runs, is reached from here and has room",
            ) from None

    def _prepare(self) -> None:
        if self._engine.dialect.name == "sqlite":
            _make_private(Path(str(self._engine.url.database)))
        for _ in _metadata.tables:
            with suppress(
                DBAPIError
            ):  # another process made the same table at the same moment: the next one may meet it too
                _metadata.create_all(self._engine)
                break
        else:
            _metadata.create_all(self._engine)
        self._prepared = True


class _RowError(StoreError):
    """The database refuses a value: PostgreSQL takes no NUL character in a text."""


def _reason(error: SQLAlchemyError) -> str:
    return one_line(error.orig if isinstance(error, DBAPIError) and error.orig else error)


def absolute_url(url: str) -> str:
    """The URL with an SQLite file's absolute path, since other processes may have another working directory.

    Raises:
        ConfigError: It is no address of a database that can be used.
    """
    parsed = _parse(url)
    if parsed.get_backend_name() == "sqlite":
        parsed = parsed.set(database=str(Path(str(parsed.database)).expanduser().absolute()))
    return parsed.render_as_string(hide_password=False)


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
    except ArgumentError:
        raise ConfigError("the decision store's URL is no address of a database", allowed=_FORMS) from None
    if backend not in ("sqlite", "postgresql"):
        raise ConfigError(f"the decision store is a database of {backend}", allowed=_FORMS)
    if backend == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise ConfigError("the decision store names no file", allowed=_FORMS, remedy="give sqlite:///decisions.db")
    return parsed


def _open(url: URL) -> Engine:
    arguments: dict[str, Any] = {"timeout": _STATEMENT_S}
    if url.get_backend_name() == "postgresql":
        arguments = {"connect_timeout": _CONNECT_S, "options": f"-c statement_timeout={1_000 * _STATEMENT_S}"}
    try:
        engine = create_engine(url, connect_args=arguments, pool_pre_ping=True)
    except NoSuchModuleError:
        raise ConfigError(f"the decision store's driver {url.drivername} is unknown", allowed=_FORMS) from None
    except ImportError as error:
        raise ConfigError(
            f"the decision store needs {error.name}, which is not installed",
            remedy="pip install 'bert-agent[feedback]'",
        ) from None
    if url.get_backend_name() == "sqlite":
        event.listen(engine, "connect", _set_up_sqlite)
    return engine


def _set_up_sqlite(connection: Any, _: Any) -> None:
    """Readers do not wait for writers, and several processes may write; what is deleted is overwritten."""
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "secure_delete=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _make_private(file: Path) -> None:
    """Makes SQLite's file for its owner alone; what cannot be made, SQLite itself will name."""
    with suppress(OSError):
        if not file.exists():
            file.touch(0o600)


def _joined() -> Any:
    return select(*_decisions.c, *_given).select_from(_decisions.outerjoin(_feedback, _same))


def _logged(row: RowMapping) -> LoggedDecision:
    decision = Decision(**{name: row[name] for name in Decision._fields})
    given = {name: row[f"feedback_{name}"] for name in Feedback._fields}
    return LoggedDecision(decision, None if given["time"] is None else Feedback(**given))
