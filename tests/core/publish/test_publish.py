"""Publishing: to a hub and to an object store over real HTTP; what leaves, what never does, and every way it fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path

import pytest

from core import config
from core.benchdb import queries
from core.benchdb.writer import rebuild
from core.config import Profile
from core.contract import Stage, Verdict
from core.errors import (
    ArtifactMissing,
    FileTampered,
    GateRefused,
    HubCorrupt,
    HubFailed,
    HubFull,
    HubGated,
    HubMissing,
    HubMoved,
    HubNoRevision,
    HubRefused,
    HubSlow,
    HubUnreachable,
    RemoteDiffers,
    RemoteRefused,
    ToolMissing,
    UsageError,
)
from core.events import Event, Note, Published, ignore
from core.nouns import AdapterFile, GgufModel
from core.publish.publish import CHECKSUMS, leaving, publish
from core.publish.record import publications
from core.report.publication import delivery_table
from core.workspace import Workspace
from tests.core import published_chain
from tests.core.hub.hub_server import TOKEN, Hub
from tests.core.remote.place import KEY, SECRET_KEY, Place
from tests.core.remote.proxy import Proxy, s3_error

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the hub client's own call
TEXTS = {
    "README.md": "---\nlicense: mit\n---\n# Tutor\n",
    "model_card.json": "{}",
    "Modelfile-Q8_0": "FROM ./tiny-Q8_0.gguf\n",
}
REJECTED = "tiny-Q4_K_M.gguf"
LEAVING = sorted([*TEXTS, "tiny-Q8_0.gguf", "tiny-Q4_0.gguf", CHECKSUMS])


def exported(workspace: Workspace, prompt: str = "hello", **more: str) -> GgufModel:
    """A model whose folder also holds a file that was rejected, and a note nobody asked for."""
    labels = published_chain.labeled(workspace, published_chain.dataset(workspace, prompt))
    files = {**TEXTS, REJECTED: "rejected", "notes.txt": "private", **more}
    return published_chain.gguf_model(workspace, published_chain.adapter(workspace, labels), files)


@pytest.fixture
def model(workspace: Workspace) -> GgufModel:
    return exported(workspace)


def profile(to: str | None, **more: object) -> Profile:
    told = {"publish.to": to, "publish.token_env": "MY_TOKEN", "publish.timeout_s": 10, **more}
    return config.load("demo", told)


TO_HUB = profile("hf://ada/tutor")


def stored(place: Place, **more: object) -> Profile:
    made = profile(f"s3://{place.bucket}/models/tutor")
    return made.model_copy(update={"remote": place.config(**more)})


def test_a_repository_gets_the_files_that_passed_in_one_commit(
    workspace: Workspace, model: GgufModel, hub_here: Hub, events: list[Event]
) -> None:
    repo = hub_here.repo()
    done = publish(workspace, model, TO_HUB, events.append)
    assert sorted(repo.head()) == sorted([".gitattributes", *LEAVING])
    assert len(repo.commits) == 2
    folder = workspace.folder(Stage.EXPORT, model.artifact_id)
    assert all(repo.head()[path] == (folder / path).read_bytes() for path in LEAVING if path != CHECKSUMS)
    (told,) = publications(workspace)
    assert (told.to, told.revision, told.artifact_id) == ("hf://ada/tutor", repo.branches["main"], model.artifact_id)
    assert sorted(done.sent) == [file.path for file in told.files] == LEAVING
    assert [type(event) for event in events if event.kind != "progress"] == [Published]
    with queries.reading(workspace) as connection:
        rows = connection.execute("SELECT artifact_id, place, revision FROM publications").fetchall()
        files = connection.execute("SELECT path FROM publication_files ORDER BY path").fetchall()
    assert rows == [(model.artifact_id, "hf://ada/tutor", repo.branches["main"])]
    assert [path for (path,) in files] == LEAVING


def test_a_database_that_cannot_be_written_leaves_the_publication_and_is_told(
    workspace: Workspace, model: GgufModel, hub_here: Hub, events: list[Event]
) -> None:
    repo = hub_here.repo()
    workspace.database.write_bytes(b"not a database" * 1000)
    publish(workspace, model, TO_HUB, events.append)
    assert len(repo.commits) == 2
    assert len(publications(workspace)) == 1
    (note,) = [event for event in events if isinstance(event, Note)]
    assert note.level == "warning"
    assert "not a valid DuckDB database file" in note.text
    assert "`edgekiln db rebuild` puts the publication into the database" in note.text
    rebuild(workspace, 5)
    with queries.reading(workspace) as connection:
        assert connection.execute("SELECT count(*) FROM publications").fetchone() == (1,)


@pytest.mark.parametrize("reasons", [(), ("rsLoRA: llama.cpp scales by alpha / r alone",)], ids=["accepted", "rejected"])
def test_the_adapter_alone_leaves_with_its_modelfile_where_it_was_accepted(
    workspace: Workspace, reasons: tuple[str, ...]
) -> None:
    made = {"tiny-adapter.gguf": "lora", "Modelfile-adapter": "FROM ./base.gguf\nADAPTER ./tiny-adapter.gguf\n"}
    figures = {"bytes": 4, "r": 8, "lora_alpha": 16.0, "pairs": 1, "held_out_loss": 1.0, "merged_held_out_loss": 1.0}
    alone = AdapterFile(path="tiny-adapter.gguf", reasons=reasons, **figures)
    model = exported(workspace, **made).model_copy(update={"adapter_file": alone})
    assert sorted(ref.path for ref in leaving(model) if ref.path in made) == ([] if reasons else sorted(made))


def test_the_checksums_are_those_that_sha256sum_checks(
    workspace: Workspace, model: GgufModel, hub_here: Hub, tmp_path: Path
) -> None:
    repo = hub_here.repo()
    publish(workspace, model, TO_HUB)
    for path, data in repo.head().items():
        (tmp_path / path).write_bytes(data)
    done = subprocess.run(["sha256sum", "-c", CHECKSUMS], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.count(": OK")) == (0, len(LEAVING) - 1)


def test_what_is_there_already_is_not_sent_again_and_an_older_model_s_files_go(
    workspace: Workspace, model: GgufModel, hub_here: Hub
) -> None:
    repo = hub_here.repo()
    publish(workspace, model, TO_HUB)
    puts, commits = hub_here.count("PUT", "/objects/"), len(repo.commits)
    again = publish(workspace, model, TO_HUB)
    assert (again.sent, sorted(again.there)) == ((), LEAVING)
    assert (hub_here.count("PUT", "/objects/"), len(repo.commits)) == (puts, commits)
    assert len(publications(workspace)) == 1
    repo.commit("main", {**repo.head(), "mine.txt": b"of the owner"})
    repo.commit("main", {**repo.head(), CHECKSUMS: repo.head()[CHECKSUMS] + b"0" * 64 + b"  tiny-Q6_K.gguf\n"})
    repo.commit("main", {**repo.head(), "tiny-Q6_K.gguf": b"of an older model"})
    newer = publish(workspace, exported(workspace, "other"), TO_HUB)
    assert newer.publication.removed == ("tiny-Q6_K.gguf",)
    assert sorted(repo.head()) == sorted([".gitattributes", "mine.txt", *LEAVING])


def test_files_that_a_stranger_s_checksums_list_are_left_alone(
    workspace: Workspace, model: GgufModel, hub_here: Hub
) -> None:
    repo = hub_here.repo()
    repo.commit("main", {"theirs.gguf": b"weights", CHECKSUMS: b"0" * 64 + b"  theirs.gguf\n"})
    done = publish(workspace, model, TO_HUB)
    assert done.publication.removed == ()
    assert repo.head()["theirs.gguf"] == b"weights"


def test_a_dry_run_tells_what_would_be_sent_and_writes_nothing(
    workspace: Workspace, model: GgufModel, hub_here: Hub
) -> None:
    repo = hub_here.repo()
    before = dict(hub_here.objects)
    done = publish(workspace, model, TO_HUB, dry_run=True)
    assert sorted(done.sent) == LEAVING
    assert (len(repo.commits), hub_here.objects, publications(workspace)) == (1, before, [])
    assert done.bytes_sent() == sum(file.bytes for file in done.publication.files)


def test_a_branch_is_published_to_by_its_name(workspace: Workspace, model: GgufModel, hub_here: Hub) -> None:
    repo = hub_here.repo()
    repo.branches["next"] = repo.branches["main"]
    publish(workspace, model, profile("hf://ada/tutor@next"))
    assert (len(repo.head("next")), len(repo.head("main"))) == (len(LEAVING) + 1, 1)
    with pytest.raises(HubNoRevision, match=r"ada/tutor has no revision other") as caught:
        publish(workspace, model, profile("hf://ada/tutor@other"))
    assert "hf repos branch create ada/tutor other" in caught.value.remedy


@pytest.mark.full
def test_a_connection_cut_in_the_middle_of_a_file_is_taken_up(
    workspace: Workspace, model: GgufModel, hub_here: Hub
) -> None:
    repo = hub_here.repo()
    hub_here.cut_up = [10]
    publish(workspace, model, TO_HUB)
    assert hub_here.count("CUT", "/objects/") == 1
    assert sorted(repo.head()) == sorted([".gitattributes", *LEAVING])


FAULTS = [
    ({"/preupload/": (403, "", "You do not have write access")}, HubRefused, r"refuses the token of MY_TOKEN \(403\)"),
    ({"/revision/": (401, "", "Invalid credentials in Authorization header")}, HubRefused, r"\(401\): Invalid cred"),
    ({"/revision/": (403, "GatedRepo", "Access is restricted")}, HubGated, "ada/tutor@main is gated"),
    ({"/revision/": (404, "RepoNotFound", "Repository not found")}, HubMissing, "the hub has no ada/tutor"),
    ({"/objects/": (507, "", "Insufficient Storage")}, HubFull, "no space left for hf://ada/tutor@main: Insuff"),
    ({"/preupload/": (403, "", "Private repository storage limit reached")}, HubFull, "storage limit reached"),
    ({"/commit/": (412, "", "A commit has happened since")}, HubMoved, r"was changed meanwhile \(412\)"),
    ({"/commit/": (503, "", "Busy")}, HubSlow, r"the hub is overloaded \(503\)"),
    ({"/commit/": (400, "", "Bad card")}, HubFailed, r"\(400\): Bad card"),
]


@pytest.mark.parametrize(("says", "kind", "told"), FAULTS)
def test_every_refusal_of_a_hub_is_an_error_of_its_own(
    workspace: Workspace,
    model: GgufModel,
    hub_here: Hub,
    says: dict[str, tuple[int, str, str]],
    kind: type[HubFailed],
    told: str,
) -> None:
    repo = hub_here.repo()
    hub_here.says = says
    with pytest.raises(kind, match=told) as caught:
        publish(workspace, model, TO_HUB)
    assert type(caught.value) is kind
    assert TOKEN not in str(caught.value)
    assert "secretsecret" not in str(caught.value)
    assert (len(repo.commits), publications(workspace)) == (1, [])
    assert not list((workspace.root / "staging").glob("publish-*[!k]"))


def test_a_wrong_token_an_absent_one_and_a_hub_that_is_not_there_are_told_apart(
    workspace: Workspace, model: GgufModel, hub_here: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub_here.repo()
    monkeypatch.setenv("MY_TOKEN", "hf_wrong_wrong_wrong")
    with pytest.raises(HubRefused, match=r"Invalid credentials") as caught:
        publish(workspace, model, TO_HUB)
    assert "hf_wrong" not in str(caught.value)
    with pytest.raises(ToolMissing, match="NO_SUCH_TOKEN is not set"):
        publish(workspace, model, profile("hf://ada/tutor", **{"publish.token_env": "NO_SUCH_TOKEN"}))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubUnreachable, match="no connection to the hub opens"):
        publish(workspace, model, TO_HUB)


def test_a_silent_hub_is_left_after_the_time_that_was_set(workspace: Workspace, model: GgufModel, hub_here: Hub) -> None:
    hub_here.repo()
    hub_here.stalled = {"/revision/"}
    with pytest.raises(HubSlow, match="silent for too long"):
        publish(workspace, model, profile("hf://ada/tutor", **{"publish.timeout_s": 0.3}))


def test_files_that_the_repository_ignores_are_missed_in_the_commit(
    workspace: Workspace, model: GgufModel, hub_here: Hub
) -> None:
    hub_here.repo(ignored=("-Q4_0.gguf",))
    with pytest.raises(HubCorrupt, match=r"does not hold what was committed: tiny-Q4_0\.gguf") as caught:
        publish(workspace, model, TO_HUB)
    assert ".gitignore" in caught.value.remedy
    assert publications(workspace) == []


def test_nothing_leaves_that_failed_its_gate_was_changed_or_has_no_card(
    workspace: Workspace, model: GgufModel, hub_here: Hub
) -> None:
    with pytest.raises(GateRefused, match="its verdict is failed"):
        publish(workspace, model.model_copy(update={"verdict": Verdict(passed=False)}), TO_HUB)
    bare = published_chain.chain(workspace, "bare")[0]
    with pytest.raises(ArtifactMissing, match="has no model card"):
        publish(workspace, bare, TO_HUB)
    path = workspace.folder(Stage.EXPORT, model.artifact_id) / "tiny-Q8_0.gguf"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(FileTampered, match=r"tiny-Q8_0\.gguf has sha256"):
        publish(workspace, model, TO_HUB)
    with pytest.raises(UsageError, match=r"publish\.to is not set"):
        publish(workspace, model, profile(None))
    assert hub_here.asked == []


def test_a_prefix_gets_the_files_with_the_manifest_last_and_is_written_once(
    workspace: Workspace, model: GgufModel, place: Place, events: list[Event]
) -> None:
    to = stored(place)
    assert sorted(publish(workspace, model, to, dry_run=True).sent) == LEAVING
    assert place.names() == []
    publish(workspace, model, to, events.append)
    assert sorted(place.names()) == sorted(f"models/tutor/{path}" for path in [*LEAVING, "manifest.json"])
    assert [asked[1] for asked in place.manners.asked if asked[0] == "PUT"][-1].endswith("manifest.json")
    puts = place.manners.sent("PUT", "")
    again = publish(workspace, model, to)
    assert (again.sent, sorted(again.there)) == ((), LEAVING)
    assert place.manners.sent("PUT", "") == puts
    (told,) = publications(workspace)
    manifest = place.client.get_object(Bucket=place.bucket, Key="models/tutor/manifest.json")["Body"].read()
    assert (told.to, told.revision, told.manifest_sha256) == (to.publish.to, None, sha256(manifest).hexdigest())
    assert f"manifest.json sha256: {told.manifest_sha256}" in delivery_table(again).notes
    with queries.reading(workspace) as connection:
        rows = connection.execute("SELECT place, manifest_sha256 FROM publications").fetchall()
    assert rows == [(told.to, told.manifest_sha256)]
    with pytest.raises(RemoteDiffers, match="is the manifest of another folder"):
        publish(workspace, exported(workspace, "other"), to, dry_run=True)


@pytest.mark.full
def test_an_object_store_that_refuses_the_key_ends_the_publishing(
    workspace: Workspace, model: GgufModel, place: Place, proxy: Proxy
) -> None:
    proxy.faults.says = [s3_error("403 Forbidden", "AccessDenied")]
    with pytest.raises(RemoteRefused, match="AccessDenied") as caught:
        publish(workspace, model, stored(place, port=proxy.port))
    assert KEY not in str(caught.value)
    assert SECRET_KEY not in str(caught.value)


def test_a_publishing_killed_in_the_second_file_goes_on_with_it(
    workspace: Workspace, model: GgufModel, hub_here: Hub
) -> None:
    repo = hub_here.repo()
    second = model.file("tiny-Q8_0.gguf").sha256
    hub_here.stalled = {second}
    argv = [sys.executable, "-m", "flows.cli.main", "export", "publish", model.artifact_id, "--to", "hf://ada/tutor"]
    argv += ["--set", "publish.token_env=MY_TOKEN", "--workspace", str(workspace.root)]
    with subprocess.Popen(argv, cwd=ROOT, env=os.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        until = time.monotonic() + 30
        while not hub_here.count("PUT", second):
            assert time.monotonic() < until
            time.sleep(0.02)
        child.send_signal(signal.SIGKILL)
    assert len(repo.commits) == 1
    hub_here.stalled, first = set(), model.file("tiny-Q4_0.gguf").sha256
    publish(workspace, model, TO_HUB)
    assert hub_here.count("PUT", first) == 1
    assert sorted(repo.head()) == sorted([".gitattributes", *LEAVING])


def test_the_command_shows_a_dry_run_and_needs_a_current_model(
    workspace: Workspace, model: GgufModel, hub_here: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    from core.promote import promote
    from flows.cli.main import run

    hub_here.repo()
    asked = ["export", "publish", "--to", "hf://ada/tutor", "--dry-run", "--workspace", str(workspace.root)]
    assert run(asked) == 1
    assert "has no current model" in capsys.readouterr().err
    promote(workspace, "demo", model, ignore)
    assert run(asked) == 0
    told = capsys.readouterr().out
    assert "tiny-Q8_0.gguf" in told
    assert "would be sent" in told
    assert REJECTED not in told
    assert run(["export", "publish", "--to", "ftp://x", "--workspace", str(workspace.root)]) == 2
    assert "publish.to" in capsys.readouterr().err
