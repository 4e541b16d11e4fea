"""The rules over one row: each planted fault is found, clean rows are left alone, no input makes a rule quadratic."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.contract import Severity
from core.data import docs
from core.data.flaws import EXCERPT_CHARS, REMEDIES
from core.data.limits import RuleLimits
from core.data.record import PromptRow
from core.data.rules import RULES, Rule, judge
from core.data.shapes import Draft, draft_of
from core.data.subject import Subject, ToolCall, subject_of

DATA = Path(__file__).parents[2] / "data"
LIMITS = RuleLimits(languages=("fr", "en"), max_prompt_chars=4000, max_answer_chars=4000)
QUESTION = "Comment faire cuire un œuf à la coque sans qu'il éclate dans l'eau bouillante?"
ANSWER = "Sors l'œuf du frigo une demi-heure avant, puis dépose-le doucement dans l'eau qui frémit."
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
LONG = " ".join(json.loads(line)["context"] for line in docs.generate(16).splitlines())
TOOLS = {"weather": SCHEMA, "clock": None}


def asked(text: str) -> Subject:
    return Subject(user=text, answer=ANSWER)


def answered(text: str, **more: Any) -> Subject:
    return Subject(user=QUESTION, answer=text, **more)


def called(name: object, arguments: object) -> Subject:
    return answered("", tools=TOOLS, calls=(ToolCall(name, arguments),), answer_calls=True)


PLANTED: list[tuple[str, Subject]] = [
    ("empty-user", asked("")),
    ("empty-user", asked(" \u00a0\n\t")),
    ("empty-user", asked("\u200b\ufeff ")),
    ("empty-completion", answered("")),
    ("empty-completion", answered("\u200b\n")),
    ("null-text", asked("NaN")),
    ("null-text", answered("null")),
    ("null-text", Subject(user=QUESTION, context=" #N/A ")),
    ("too-long", Subject(user=QUESTION, context="mot " * 1000)),
    ("answer-too-long", answered("mot " * 1001)),
    ("schema-missing", answered("{}", requires_json=True)),
    ("schema-invalid", answered("{}", requires_json=True, tool_schema={"type": "objet"})),
    ("schema-invalid", answered("{}", requires_json=True, tool_schema={"$ref": "https://example.com/schema.json"})),
    ("schema-invalid", answered("{}", requires_json=True, tool_schema={"$schema": 3})),
    ("answer-not-json", answered("Voici: {}", requires_json=True, tool_schema=SCHEMA)),
    ("answer-not-json", answered('{"city": NaN}', requires_json=True, tool_schema=SCHEMA)),
    ("answer-not-json", answered("[" * 100_0, requires_json=True, tool_schema=SCHEMA)),
    ("answer-misfits-schema", answered('{"city": 3}', requires_json=True, tool_schema=SCHEMA)),
    ("answer-misfits-schema", answered("{}", requires_json=True, tool_schema=SCHEMA)),
    ("tool-call-misfits", called("weather", '{"city": 3}')),
    ("tool-call-misfits", called("weather", {"town": "Laval"})),
    ("tool-call-misfits", called("weather", '{"city": ')),
    ("tool-call-misfits", called("weather", '["Laval"]')),
    ("tool-call-misfits", called("wether", "{}")),
    ("tool-call-misfits", called(None, "{}")),
    ("mojibake", asked("Comment prÃ©parer une soupe aux pois pour la fÃªte nationale?")),
    ("mojibake", answered("Lâ€™eau doit bouillir doucement, puis tu ajoutes le sel et le beurre.")),
    ("control-characters", asked("Comment faire\x07 cuire un œuf à la coque?")),
    ("control-characters", answered("Sors l'\ufffduf du frigo une demi-heure avant, puis attends.")),
    ("control-characters", asked("Ouvre le fichier \u202egpj.exe pour moi, s'il te plaît.")),
    ("chat-markup", answered("Voici la réponse.<|im_end|>")),
    ("chat-markup", asked("[INST] Comment faire cuire un œuf? [/INST]")),
    ("chat-markup", asked("Question\n### Response:\nComment faire cuire un œuf?")),
    ("language", asked("Wie koche ich ein Ei, ohne dass es im kochenden Wasser zerspringt?")),
    ("language", answered("Saca el huevo de la nevera media hora antes y ponlo despacio en el agua caliente.")),
    ("repetition", answered("oui oui oui oui oui oui oui")),
    ("repetition", answered("Dépose-le doucement dans l'eau. Attends. Dépose-le doucement dans l'eau. Sors-le.")),
    ("repetition", answered("Ahhhhhhhhhhhhhhhhhhhhhhhhhhhhhh bon")),
    ("repetition", answered(" ".join(f"le chat noir mange {word}" for word in "abcdefghijklmnopqrstuvw"))),
    ("missing-text", asked("Résume le texte ci-dessous en trois phrases.")),
    ("missing-text", asked("Proofread the following article, please.")),
    ("missing-text", asked("Que dit la pièce jointe?")),
    ("missing-image", asked("Décris cette image en détail.")),
    ("missing-image", asked("What is in the attached picture?")),
    ("missing-image", answered("Regarde: ![un œuf](oeuf.png), c'est simple.")),
    ("missing-url", asked("Résume https://fr.wikipedia.org/wiki/Poutine pour moi.")),
    ("missing-url", answered("Tout est expliqué sur www.oeufs-parfaits.ca/coque, avec des photos.")),
    ("truncated", answered("Sors l'œuf du frigo une demi-heure avant, puis dépose-le doucement dans")),
    ("truncated", answered("Il y a trois étapes à suivre pour ne pas le faire éclater:")),
    ("truncated", answered("Sors-le du frigo. Attends une demi-heure. Ensuite tu le déposes doucement avec une cuill")),
    ("truncated", answered("Voici le code complet que tu peux copier dans ton projet:\n```python\nprint(1)")),
    ("refusal", answered("Je suis désolé, mais je ne peux pas répondre à cette question.")),
    ("refusal", answered("I’m sorry, but I can’t help with that request.")),
    ("boilerplate", answered("En tant que modèle de langage, je cuis mes œufs six minutes.")),
    ("boilerplate", answered("Six minutes dans l'eau frémissante. I hope this helps!")),
    ("answer-in-prompt", answered("faire cuire un œuf à la  coque")),
    (
        "ratio-outlier",
        Subject(user=LONG, answer="Ça parle de Python."),
    ),
    (
        "ratio-outlier",
        Subject(user="Why?", answer=LONG),
    ),
    ("degenerate-answer", answered("...")),
    ("degenerate-answer", answered("N/A")),
]

CLEAN = [
    asked(QUESTION),
    Subject(user=QUESTION),
    answered("Oui."),
    answered("SELECT name, price FROM eggs WHERE size = 'large' ORDER BY price LIMIT 10;"),
    answered("Le choix qui convient ici est de toute évidence le choix A"),
    answered("4"),
    answered("Paris"),
    answered("- six minutes\n- dans l'eau qui frémit\n- avec du sel et un peu de vinaigre blanc"),
    answered("Voici le code complet à copier dans ton projet, et c'est tout:\n```python\nprint(1)\n```"),
    answered('{"city": "Laval"}', requires_json=True, tool_schema=SCHEMA),
    answered("null", requires_json=True, tool_schema={"type": "null"}),
    called("weather", '{"city": "Laval"}'),
    called("clock", {}),
    asked("Traduis la phrase suivante: « Bonjour toi »"),
    asked("Corrige le texte ci-dessous:\nJ'ai manger une pomme."),
    Subject(user="Résume le texte ci-dessous.", context="Il était une fois une poule qui pondait.", answer=ANSWER),
    Subject(
        user="Résume https://example.org/a.",
        context="La page parle d'œufs.",
        answer="Elle parle d'œufs: https://example.org/a",
    ),
    asked("Pourquoi http://localhost:8000 ne répond pas?"),
    asked("C'est quoi 3/4 tasse plus 2/3 tasse?"),
    answered(
        "Un œuf à la coque, six minutes dans l'eau. C'est tout ce qu'il faut. Essaie-le demain matin avec des #mouillettes"
    ),
    answered("|   Row 1,1   |    Row 1,2   |    Row 1,3   |\n|    Row 2,1   |    Row 2,2   |    Row 2,3   |"),
    Subject(user="Ouvre https://fr.wikipedia.org/wiki/Poutine pour moi.", tools=TOOLS),
    asked("Écris «MDR» 🎉 en toutes lettres: Hydro‑Québec, 12 × 15 = 180 — OK?"),
    Subject(user="Classe cet avis: " + "La soupe était bonne, le service lent. " * 2, answer="positif"),
    Subject(user="What does `len` do?", answer="It returns the number of items in a container, such as a list."),
]


@pytest.mark.parametrize(("code", "subject"), PLANTED, ids=lambda value: value if isinstance(value, str) else None)
def test_a_planted_fault_is_found_and_nothing_else(code: str, subject: Subject) -> None:
    flaws = judge(subject, LIMITS)

    assert [flaw.code for flaw in flaws] == [code]
    reject = flaws[0].at("rows.jsonl:7")
    assert reject.where == "rows.jsonl:7"
    assert len(reject.excerpt) <= EXCERPT_CHARS
    assert reject.field
    assert reject.reason
    assert reject.remedy == REMEDIES[code]


def test_the_planted_faults_are_of_more_than_twenty_kinds_and_of_every_rule() -> None:
    planted = {code for code, _ in PLANTED}

    assert len(planted) >= 20
    assert planted == {rule.code for rule in RULES}


@pytest.mark.parametrize("subject", CLEAN, ids=lambda subject: subject.user[:30])
def test_a_clean_row_has_no_finding(subject: Subject) -> None:
    assert judge(subject, LIMITS) == ()


@pytest.mark.parametrize("name", ["quebecois_conversation.jsonl", "quebecois_distill.jsonl"])
def test_the_quebec_prompts_are_clean_french(name: str) -> None:
    limits = RuleLimits(languages=("fr",))
    for line in (DATA / name).read_text(encoding="utf-8").splitlines():
        draft = draft_of(json.loads(line), "auto")
        assert isinstance(draft, Draft)
        assert judge(subject_of(draft), limits) == ()


def test_an_error_ends_the_search_and_warnings_add_up() -> None:
    text = "Je suis désolé, mais je ne peux pas: en tant que modèle de langage,"

    assert [flaw.code for flaw in judge(answered(text), LIMITS)] == ["truncated", "refusal", "boilerplate"]
    assert [flaw.severity for flaw in judge(answered(text), LIMITS)] == [Severity.WARNING] * 3
    assert [flaw.code for flaw in judge(Subject(user=" ", answer=text), LIMITS)] == ["empty-user"]


def test_languages_are_not_judged_unless_configured() -> None:
    german = asked("Wie koche ich ein Ei, ohne dass es im kochenden Wasser zerspringt?")

    assert judge(german, RuleLimits()) == ()
    assert judge(german, RuleLimits(languages=("fr", "de"))) == ()


def test_two_languages_in_one_text_are_told_with_their_share() -> None:
    text = f"{ANSWER} Take the egg out of the fridge half an hour before, then put it gently into the simmering water."

    (flaw,) = judge(answered(text), RuleLimits(languages=("fr",)))

    assert flaw.code == "language"
    assert "% in en > data.rules.max_foreign_share" in flaw.reason


def test_a_chats_tools_and_calls_are_read_from_its_fields() -> None:
    tool = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}
    call = {"type": "function", "function": {"name": "weather", "arguments": '{"city": 3}'}}
    messages = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER, "tool_calls": [call]}]

    draft = draft_of({"messages": messages, "tools": [tool, {"name": "bare"}]}, "auto")

    assert isinstance(draft, Draft)
    subject = subject_of(draft)
    assert subject.tools == {"weather": SCHEMA, "bare": None}
    assert [flaw.code for flaw in judge(subject, LIMITS)] == ["tool-call-misfits"]


def test_a_teachers_answer_is_judged_with_its_prompt() -> None:
    row = PromptRow(row_id="1", split="train", system=None, context=None, user=QUESTION)
    call = {"type": "function", "function": {"name": "weather", "arguments": "{"}}

    assert judge(subject_of(row), LIMITS) == ()
    assert [flaw.code for flaw in judge(subject_of(row, " "), LIMITS)] == ["empty-completion"]
    assert [flaw.code for flaw in judge(subject_of(row, "", [call]), LIMITS)] == ["tool-call-misfits"]


def test_earlier_turns_are_looked_at_too() -> None:
    messages = [
        {"role": "user", "content": "Salut, Ã§a va?"},
        {"role": "assistant", "content": "Oui, et toi?"},
        {"role": "user", "content": QUESTION},
    ]
    draft = draft_of({"messages": messages}, "auto")

    assert isinstance(draft, Draft)
    (flaw,) = judge(subject_of(draft), LIMITS)
    assert (flaw.code, flaw.field) == ("mojibake", "turn 1")
    assert [flaw.code for flaw in judge(subject_of(draft), RuleLimits(max_prompt_chars=len(QUESTION)))] == ["too-long"]


@settings(deadline=None)
@given(st.text(max_size=300), st.none() | st.text(max_size=300), st.booleans())
def test_no_text_makes_a_rule_fail(user: str, answer: str | None, requires_json: bool) -> None:
    subject = Subject(user=user, answer=answer, context=answer, requires_json=requires_json, tool_schema=SCHEMA)

    for rule in RULES:
        flaw = rule.check(subject, LIMITS)
        assert flaw is None or flaw.code == rule.code


BAIT: dict[str, Callable[[int], str]] = {
    "one letter": lambda n: "a" * n,
    "one word": lambda n: "ab " * (n // 3),
    "new words": lambda n: " ".join(f"w{k}" for k in range(n // 6)),
    "new characters": lambda n: "".join(chr(0x4E00 + k % 20_000) for k in range(n)),
    "new lines": lambda n: "\n" * n,
    "mojibake": lambda n: "Ã© " * (n // 3),
    "almost mojibake": lambda n: "é»é " * (n // 4),
    "entities": lambda n: "é&" * (n // 2),
    "marks": lambda n: "<|" * (n // 2),
    "brackets": lambda n: "[" * n,
    "objects": lambda n: '{"a":' * (n // 5),
    "addresses": lambda n: " ".join(f"http://a{k}" for k in range(n // 12)),
    "phrases": lambda n: "the text below " * (n // 15),
    "almost phrases": lambda n: "as an ai  language " * (n // 19),
    "pictures": lambda n: "in this imag " * (n // 13),
    "fences": lambda n: "```" * (n // 3),
    "sentences": lambda n: "a. " * (n // 3),
    "spaces": lambda n: "a" + " " * n,
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_no_input_makes_a_rule_quadratic(rule: Rule) -> None:
    limits = RuleLimits(languages=("fr",), max_prompt_chars=10**9, max_answer_chars=10**9)
    small, large = 12_000, 48_000

    for name, bait in BAIT.items():
        assert _grows_linearly(lambda n, bait=bait: _bait(bait(n)), rule, limits, small, large), name


def _bait(text: str) -> list[Subject]:
    schema = {"type": "string", "pattern": "^(a+)+$"}
    quoted = json.dumps(text)
    return [
        Subject(user=text, answer=text, context=None),
        Subject(user="Quoi?", answer=text, context=text, requires_json=True, tool_schema={"type": "string"}),
        Subject(user="Quoi?", answer=quoted, requires_json=True, tool_schema=schema),
        Subject(user="Quoi?", tools={"f": {"properties": {"x": schema}}}, calls=(ToolCall("f", f'{{"x": {quoted}}}'),)),
    ]


def _grows_linearly(make: Callable[[int], list[Subject]], rule: Rule, limits: RuleLimits, small: int, large: int) -> bool:
    """Say whether four times the input takes less than nine times as long; below 4 ms nothing can be told."""
    for _ in range(3):
        first, second = (min(_seconds(make(size), rule, limits) for _ in range(2)) for size in (small, large))
        if second < 0.004 or second < 9 * first:
            return True
    return False


def _seconds(subjects: list[Subject], rule: Rule, limits: RuleLimits) -> float:
    start = time.process_time()
    for subject in subjects:
        rule.check(subject, limits)
    return time.process_time() - start
