"""A model card in Hugging Face's format, in the shape of Llama 2's (Table 52), for models that leave."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml

from storage.artifacts import Artifact, Store
from tasks import card_tables as tables
from tasks.card_facts import Known, known_of
from tasks.data_card_page import escaped
from tasks.jobs import own_job
from tasks.rendering import render_template

LIBRARIES = {"huggingface": "transformers", "gguf": "gguf"}
CHAT_KINDS = {"chat", "ppo", "dpo"}
LEAST_LANGUAGE_SHARE = 0.01
HARNESS = "https://github.com/EleutherAI/lm-evaluation-harness"


def known_at(name: str, path: Path, store: Store) -> Known:
    """Gather what is known of a model at a path: an artifact's, or one's own, which the store may have seen."""
    from llama2_core.interop import convert  # noqa: PLC0415  (torch takes seconds)

    if path.resolve().parent.parent == store.root.resolve():
        return known_of(name, Artifact(path.parent.name, path.name, path), store)
    job = own_job(path)
    seen = store.find(job.kind, job.digest)
    return known_of(name, seen, store) if seen else Known(name, convert.read(path).config)


def model_card(model: Known, to: str, adapters: Sequence[str] = ()) -> str:
    """Return the README.md of a model that leaves in a format; with adapters merged, scores no longer hold."""
    if adapters:
        model = replace(model, found={role: a for role, a in model.found.items() if role == "data card"})
    dates = [artifact.manifest.created_at[:10] for artifact in model.lineage]
    chats = is_chat(model)
    body = render_template(
        "model_card.md",
        m=model,
        to=to,
        chats=chats,
        label=escaped(model.label),
        adapters=escaped(list(adapters)),
        dates=f"{min(dates)} to {max(dates)}" if dates else "",
        commit=model.artifact.manifest.git_commit if model.artifact else "",
        departures=model.config.variant.model_dump(exclude_defaults=True),
        shape=escaped(tables.model_table([model])[0]),
        methods=escaped(model.energy_methods),
        data=escaped({"origins": model.data.origins, "counts": model.data.counts}) if model.data else None,
        nothing=tables.NOTHING,
        scored=[{key: escaped(value) for key, value in asdict(s).items()} for s in tables.scored([model])],
        examination=escaped(tables.examination_table([model])),
        limits=escaped(tables.limits(model)),
        lineage=escaped(tables.lineage_table([model])),
    )
    return f"---\n{yaml.safe_dump(metadata(model, to), sort_keys=False, allow_unicode=True)}---\n\n{body}\n"


def is_chat(model: Known) -> bool:
    return any(artifact.kind in CHAT_KINDS for artifact in model.lineage)


def metadata(model: Known, to: str) -> dict[str, Any]:
    """Return the front matter: what is not known is left out, the licence too, which is the publisher's to choose."""
    results = list(_results(model))
    facts = {
        "library_name": LIBRARIES.get(to),
        "pipeline_tag": "text-generation",
        "tags": ["llama-2", "llama2-pipeline", *(["conversational"] if is_chat(model) else [])],
        "language": _languages(model),
        "co2_eq_emissions": _emissions(model),
        "model-index": [{"name": model.label, "results": results}] if results else None,
    }
    return {name: fact for name, fact in facts.items() if fact}


def _languages(model: Known) -> list[str]:
    """Languages of the corpus, by fastText's codes, that at least a hundredth of its documents is in."""
    counts = next((a.summary.get("languages", {}) for a in model.lineage if a.kind == "corpus"), {})
    least = LEAST_LANGUAGE_SHARE * sum(counts.values())
    return [name for name, count in counts.items() if count >= least and name != "unknown"]


def _emissions(model: Known) -> dict[str, Any] | None:
    if not model.energy_methods:
        return None
    return {
        "emissions": float(f"{1000 * model.total('kg_co2'):.4g}"),
        "source": "; ".join(model.energy_methods),
        "training_type": "fine-tuning" if is_chat(model) else "pre-training",
    }


def _results(model: Known) -> Iterator[dict[str, Any]]:
    """Yield model-index's results: shares, not percent, with intervals and conditions as arguments of the metric."""
    for conditions, rows in model.scores.items():
        for row in rows:
            about = {name: row[name] for name in ("filter", "low", "high", "n", "version", "prompt_hash")}
            metric = {
                "type": row["metric"],
                "name": f"{row['metric']} ({row['filter']})",
                "value": row["value"],
                "args": {**about, "contamination": row["mark"], **conditions.model_dump()},
            }
            yield {
                "task": {"type": "text-generation"},
                "dataset": {"type": row["task"], "name": row["task"], "args": {"num_few_shot": row["shots"]}},
                "metrics": [metric],
                "source": {"name": f"lm-evaluation-harness {conditions.harness}", "url": HARNESS},
            }
