"""Trains in forked children of one process that has imported torch: `forks.py PLAN.json` says in `done.json` how each ended.

A plan is a list of runs: which folder, which settings, which fault. The worker's own code runs; a fault is a signal at an
event or at a touch of a checkpoint's file, a limit on file sizes, or a gradient that is NaN. A supervised run has its
supervisor in one child and each worker in a child of that one; their faults are in supervised.py.
"""

import json
import math
import os
import random
import resource
import shutil
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import supervised as supervised_runs
import torch
from bitsandbytes.functional import has_avx512bf16
from bitsandbytes.optim import AdamW8bit
from peft import LoraConfig
from transformers import set_seed
from trl import SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from core.config import TrainConfig
from core.data.record import TokenisedRow
from core.errors import EdgekilnError
from core.events import ignore
from core.files import digest_of, sha256_of, write_json_lines
from core.label.logprobs_file import LogprobsWriter
from core.label.request import TokenLogprob
from core.train import checkpoints, worker
from core.train.checkpoints import Training
from core.train.distillation import worker as distillation
from core.train.distillation.worker import divergence
from core.train.held_out.worker import summed_loss
from core.train.limits import EvictionLimits
from core.train.request import TrainRequest
from core.train.section import DistillationConfig
from core.train.state import worker as state
from core.train.teacher import Guidance

VOCABULARY = 300
TOUCHES = {"open", "os.rename", "os.mkdir", "shutil.rmtree", "os.remove"}


def rows(count: int, split: str, masked: int | None = None, poisoned: Sequence[int] = ()) -> list[TokenisedRow]:
    drawn, noise = random.Random(split), random.Random("noise")
    made = []
    for number in range(count):
        start, length, prompt = drawn.randrange(3, VOCABULARY), drawn.randrange(8, 20), drawn.randrange(2, 6)
        ids = tuple((start + 7 * place) % VOCABULARY for place in range(length))
        if number in poisoned:
            ids = tuple(noise.randrange(3, VOCABULARY) for _ in ids)
        mask = tuple(int(place >= prompt and number != masked) for place in range(length))
        made.append(TokenisedRow(row_id=f"{split}-{number}", input_ids=ids, completion_mask=mask))
    return made


def with_earlier_turn(row: TokenisedRow) -> TokenisedRow:
    """Return a row whose second token is an assistant's turn of its own, before the answer."""
    mask = (0, 1, *row.completion_mask[2:])
    return row.model_copy(update={"completion_mask": mask, "last_turn": row.completion_mask.index(1)})


def words(run: dict, made: list[TokenisedRow]) -> str | None:
    """Write what a teacher said of rows: surest of the last one, and in every place of a second token beside the answer's."""
    if "teacher" not in run:
        return None
    tokenizer = worker.AutoTokenizer.from_pretrained(run["student"])

    def text(token: int) -> str:
        told = token + (run["teacher"] == "other texts")
        return tokenizer.decode([told], clean_up_tokenization_spaces=False)

    path = Path(run["folder"]) / "logprobs.parquet"
    with LogprobsWriter(path) as writer:
        for number, row in enumerate(made):
            shift = 1 if run["teacher"] == "other tokens" and number % 2 else 0
            begin = row.last_turn or 0
            pairs = zip(row.input_ids[begin:], row.completion_mask[begin:], strict=True)
            answer = [token + shift for token, trained in pairs if trained]
            chance = 0.5 + 0.4 * number / len(made)
            said = [
                TokenLogprob(
                    token=token,
                    text=text(token),
                    logprob=math.log(chance),
                    top=(
                        (token, text(token), math.log(chance)),
                        ((token + 5) % VOCABULARY, text((token + 5) % VOCABULARY), math.log(0.95 - chance)),
                    ),
                )
                for token in answer
            ]
            if number % 10 != run.get("unanswered"):
                writer.add(row.row_id, said)
    return str(path)


def request_of(run: dict) -> TrainRequest:
    folder = Path(run["folder"])
    config = TrainConfig.model_validate(run["config"])
    poisoned = run.get("poisoned", ())
    made = {
        split: rows(count, split, run.get("masked_row"), poisoned if split == "train" else ())
        for split, count in (("train", run["rows"]), ("held_out", 9))
    }
    if run.get("turns"):
        made["train"] = [with_earlier_turn(row) for row in made["train"]]
    for split, split_rows in made.items():
        write_json_lines(folder / f"{split}.jsonl", (row.model_dump(mode="json") for row in split_rows))
    training = Training(
        config=digest_of(config.shaping()), rows=sha256_of(folder / "train.jsonl"), student="tiny, made in the test"
    )
    newest = None
    if run.get("action") != "supervised":  # a supervisor looks for itself, and one that takes over lets the worker be
        newest, _ = checkpoints.newest_verified(folder / "checkpoints", folder / "quarantine", training)
    return TrainRequest(
        student_folder=run["student"],
        student_name="tiny",
        train=str(folder / "train.jsonl"),
        held_out=str(folder / "held_out.jsonl"),
        adapter=str(folder / "adapter"),
        steps=str(folder / "steps.jsonl"),
        metrics=str(folder / "metrics.jsonl"),
        held_out_losses=str(folder / "held_out_losses.jsonl"),
        checkpoints=str(folder / "checkpoints"),
        resume_from=str(newest) if newest else None,
        config=config,
        training=training,
        versions={"torch": torch.__version__},
        logprobs=words(run, made["train"]),
    )


class Fault:
    """Counts what happens and strikes at one of it."""

    def __init__(self, asked: dict) -> None:
        self._asked = asked
        self._seen = 0
        self.heard: list[dict] = []
        if asked.get("at") == "touch":
            sys.addaudithook(self._touched)

    def on_event(self, event) -> None:
        self.heard.append(event.model_dump(mode="json"))
        told = getattr(event, "task", event.kind)
        if self._asked.get("at") and str(told).startswith(self._asked["at"]):
            self._count()

    def _touched(self, name: str, arguments: tuple) -> None:
        if name in TOUCHES and "/checkpoints/" in str(arguments):
            self._count()

    def _count(self) -> None:
        self._seen += 1
        if self._seen != self._asked["number"]:
            return
        match self._asked:
            case {"signal": number}:
                os.kill(os.getpid(), number)
            case {"file_size": size}:
                resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
            case {"nan_gradient": True}:
                self.weight.register_hook(lambda gradient: gradient * float("nan"))

    def watch(self, kind) -> None:
        """Remember a weight of the trainer that is about to train, so that its gradient can be spoilt."""
        train = kind.train

        def remember(trainer, *args, **named):
            self.weight = next(p for p in trainer.model.parameters() if p.requires_grad)
            return train(trainer, *args, **named)

        kind.train = remember


def train(run: dict) -> dict:
    fault = Fault(run.get("fault") or {})
    fault.watch(worker.ExactTrainer)
    request = request_of(run)
    resumed = checkpoints.step_of(Path(request.resume_from)) if request.resume_from else None
    try:
        result = worker.work(request, Path(run["folder"]), fault.on_event)
    except EdgekilnError as error:
        return {"error": type(error).__name__, "problem": error.problem, "resumed": resumed, "heard": fault.heard}
    return {"result": result.model_dump(mode="json"), "resumed": resumed, "heard": fault.heard}


def plain(run: dict) -> dict:
    """Train with TRL's own trainer, its adapter in fp32, and return its losses."""
    config = TrainConfig.model_validate(run["config"])
    set_seed(config.seed)
    trainer = SFTTrainer(
        model=worker.load_student(run["student"], config, "cpu", worker.compute_dtype("cpu")),
        args=worker._arguments(config, "cpu", Path(run["folder"])),
        train_dataset=worker._dataset(rows(run["rows"], "train"), config),
        processing_class=worker.AutoTokenizer.from_pretrained(run["student"]),
        peft_config=LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", **run["config"]["lora"]),
    )
    if run["adapter_dtype"] == "float32":
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    trainer.train()
    return {"losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]}


def eight_bit(run: dict) -> dict:
    """Save and load the state of bitsandbytes' AdamW, which is nested, and say what one more step then differs by."""

    def made() -> tuple[torch.nn.Parameter, AdamW8bit]:
        weight = torch.nn.Parameter(torch.linspace(-1, 1, 64).reshape(8, 8))
        return weight, AdamW8bit([weight], lr=1e-2)

    def step(weight: torch.nn.Parameter, optimiser: AdamW8bit) -> None:
        weight.grad = weight.detach() * 0.5 + 0.1
        optimiser.step()

    folder = Path(run["folder"])
    weight, optimiser = made()
    for _ in range(3):
        step(weight, optimiser)
    state.save_optimiser(optimiser.state_dict(), folder)
    other, restored = made()
    fresh, unrestored = made()
    for one in (other, fresh):
        one.data = weight.data.clone()
    state.load_optimiser(restored, folder)
    for pair in ((weight, optimiser), (other, restored), (fresh, unrestored)):
        step(*pair)
    return {"differs": float((weight - other).abs().max()), "without_state": float((weight - fresh).abs().max())}


def frozen(run: dict) -> dict:
    """Measure what an evaluation and reading the state do to a student, as loaded here and as bitsandbytes would have it."""
    found = {}
    for name, keep in (("kept", worker._keep_as_quantised), ("repacked", ignore)):
        worker._keep_as_quantised = keep
        model = worker.load_student(run["student"], TrainConfig.model_validate(run["config"]), "cpu", torch.bfloat16)
        evaluation = worker.Evaluation(rows(9, "held_out"), 4, 0, ignore, worker.Stop(worker.Watcher(EvictionLimits())))
        gradients, losses = [gradient(model)], [evaluation.loss(model, "before")]
        gradients.append(gradient(model))
        model.state_dict()
        losses.append(evaluation.loss(model, "after"))
        found[name] = {"gradients": gradients, "losses": losses}
    return {**found, "repacks": has_avx512bf16()}


def divergences(run: dict) -> dict:
    """Compare the divergence over the teacher's likeliest tokens with that over the vocabulary, and its gradient."""
    del run
    torch.manual_seed(5)
    size = 30
    theirs, logits = torch.log_softmax(2 * torch.randn(7, size), dim=-1), (2 * torch.randn(7, size)).requires_grad_()
    ours = torch.log_softmax(logits, dim=-1)
    whole = (theirs.exp() * (theirs - ours)).sum(dim=-1)
    (gradient,) = torch.autograd.grad(whole.sum(), logits, retain_graph=True)
    found: dict = {"whole": whole.tolist(), "of": {}}
    for count in (1, 2, 5, 15, size):
        told, likeliest = theirs.topk(count, dim=-1)
        padded = torch.cat([likeliest, torch.full((7, 3), -1)], dim=-1), torch.cat([told, torch.zeros(7, 3)], dim=-1)
        some = divergence(ours, *padded, 1.0)
        (other,) = torch.autograd.grad(some.sum(), logits, retain_graph=True)
        found["of"][count] = {"kl": some.tolist(), "gradient_differs": float((gradient - other).abs().max())}
    likeliest = theirs.topk(2, dim=-1).indices
    same = divergence(theirs, likeliest, theirs.gather(-1, likeliest), 3.0)
    return {**found, "of_itself": float(same.abs().max()), "doubt_differs": doubt_differs(theirs)}


def doubt_differs(theirs: torch.Tensor) -> float:
    """Return how far a student that learns by the divergence alone stays from its teacher's three likeliest tokens."""
    told, likeliest = theirs.topk(3, dim=-1)
    logits = torch.zeros_like(theirs).requires_grad_()
    optimiser = torch.optim.Adam([logits], lr=0.1)
    for _ in range(300):
        optimiser.zero_grad()
        divergence(torch.log_softmax(logits, dim=-1), likeliest, told, 1.0).sum().backward()
        optimiser.step()
    learned = torch.softmax(logits.detach(), dim=-1).gather(-1, likeliest)
    return float((learned - told.exp()).abs().max())


def distilled(run: dict) -> dict:
    """Compare the loss of a batch with TRL's: the same where no row has a word of the teacher, between CE and KL where one has."""
    config = TrainConfig.model_validate(run["config"])
    model = worker.load_student(run["student"], config, "cpu", torch.float32).eval()
    made = rows(4, "train")
    guided = {row.row_id: of_row(row, 0.9 - 0.1 * number) for number, row in enumerate(made)}

    def loss(taught: list[TokenisedRow], known: dict[str, Guidance], weight: float) -> float:
        columns = distillation.columns(taught, known)
        examples = [
            {"input_ids": list(row.input_ids), "labels": worker.labels_of(row)}
            | {column: values[number] for column, values in columns.items()}
            for number, row in enumerate(taught)
        ]
        batch = distillation.collator(DataCollatorForLanguageModeling(pad_token_id=0))(examples)
        return float(distillation.distilled_loss(model, batch, DistillationConfig(weight=weight), None))

    cases = (("alone", {}, 0.5), ("ce", guided, 1e-9), ("kl", guided, 1.0), ("half", guided, 0.5))
    losses = {name: loss(made, known, weight) for name, known, weight in cases}
    total, tokens = summed_loss(model, made, 0)
    turned = [with_earlier_turn(row) for row in made]
    before = [row.model_copy(update={"completion_mask": (0, 1, *[0] * (len(row.input_ids) - 2))}) for row in made]
    earlier, count = summed_loss(model, before, 0)
    return {
        **losses,
        "plain": float(total) / tokens,
        "turns": loss(turned, {row.row_id: of_row(row, 0.9 - 0.1 * number) for number, row in enumerate(turned)}, 1.0),
        "turns_expected": (losses["kl"] * tokens + float(earlier)) / (tokens + count),
    }


def of_row(row: TokenisedRow, chance: float) -> Guidance:
    start = row.answer_start
    answer = row.input_ids[start:]
    return Guidance(start, [[token] for token in answer], [[math.log(chance)] for _ in answer])


def gradient(model) -> float:
    """Return the norm of the gradient that comes back through all blocks to the embeddings."""
    embeddings, ids = model.get_input_embeddings(), torch.arange(3, 40).unsqueeze(0)
    come_back = []

    def watch(module, given, output):
        output.requires_grad_(True)
        output.register_hook(lambda arrived: come_back.append(float(arrived.float().norm())))

    handle = embeddings.register_forward_hook(watch)
    model.train()
    model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    handle.remove()
    return come_back[0]


def learn(run: dict) -> dict:
    """Teach the tiny student what the rows are made of, all of its weights, and save it as another student.

    A model that knows nothing has nothing to lose: a bad row or a bad step would not show.
    """
    torch.manual_seed(5)
    model = worker.AutoModelForCausalLM.from_pretrained(run["student"], dtype=torch.float32)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    places = torch.arange(20)
    while True:
        starts = torch.randint(3, VOCABULARY, (64, 1))
        ids = (starts + 7 * places) % VOCABULARY
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        if float(loss) < run["until_loss"]:
            break
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    model.to(torch.bfloat16).save_pretrained(run["learned"])
    worker.AutoTokenizer.from_pretrained(run["student"]).save_pretrained(run["learned"])
    return {"loss": float(loss)}


def supervised(run: dict) -> dict:
    """Train under a supervisor, in this process, of workers in forked children."""
    return supervised_runs.supervise(run, request_of(run))


ACTIONS = {
    "learn": learn,
    "frozen": frozen,
    "plain": plain,
    "eight bit": eight_bit,
    "supervised": supervised,
    "wait": supervised_runs.wait_for_worker,
    "divergences": divergences,
    "distilled": distilled,
}


def in_child(run: dict) -> dict:
    """Do a run in a forked child; this process computes nothing with torch, so that there are no threads to lose."""
    folder = Path(run["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ended.json").unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            ended = ACTIONS.get(run.get("action"), train)(run)
            (folder / "ended.json").write_text(json.dumps(ended), encoding="utf-8")
            status = 0
        finally:
            if status:
                traceback.print_exc()
            os._exit(status)
    _, status = os.waitpid(child, 0)
    ended = json.loads((folder / "ended.json").read_text(encoding="utf-8")) if (folder / "ended.json").exists() else {}
    return {"signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else None, "status": status, **ended}


def spoil(spoilt: dict, folder: Path) -> None:
    """Flip a bit of a file of the newest checkpoint, or cut it short."""
    path = checkpoints.all_in(folder / "checkpoints")[-1] / spoilt["file"]
    data = bytearray(path.read_bytes())
    place = int(spoilt["place"] * len(data))
    if spoilt["how"] == "flip":
        data[place] ^= 1 << spoilt["bit"]
    else:
        del data[place:]
    path.write_bytes(data)


if __name__ == "__main__":
    plan = Path(sys.argv[1])
    done = []
    for asked in json.loads(plan.read_text(encoding="utf-8")):
        if "copy_of" in asked:
            shutil.copytree(asked["copy_of"], asked["folder"])
        if "spoil" in asked:
            spoil(asked["spoil"], Path(asked["folder"]))
        done.append(in_child(asked))
    plan.with_name("done.json").write_text(json.dumps(done), encoding="utf-8")
