"""Whether benchmarks stood in what a model was trained on, and whether that helped it. Llama 2 appendix A.6."""

from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from storage.artifacts import Store
from storage.benchmark_tables import CONTAMINATION
from storage.schemas import read_table
from tasks.benchmark_recipe import ContaminationRecipe
from tasks.jobs import Job
from tasks.launch import build, find
from tasks.progress import say
from tasks.runtime import Runtime
from tasks.suite_tables import contamination_table


@task(name="contamination", task_run_name="contamination of {label}", cache_policy=NO_CACHE)
def contamination(recipe: ContaminationRecipe, benchmarks: str, label: str, runtime: Runtime) -> str:
    """Search the samples of an evaluation in its model's training tokens; "" where those are not in the store."""
    evaluation = find(benchmarks, runtime)
    model = find(evaluation.manifest.parents["model"], runtime)
    lineage = Store(runtime.store_root).lineage(model)
    shards = next((artifact for artifact in reversed(lineage) if artifact.kind == "tokens"), None)
    if shards is None:
        say(f"[dim]{label}: its training tokens are not in the store, so contamination is not known[/]")
        return ""
    parents = {
        "benchmarks": evaluation.full_name,
        "tokens": shards.full_name,
        "tokenizer": shards.manifest.parents["tokenizer"],
    }
    name = build(Job(f"contamination of {label}", "contamination", recipe, parents=parents), runtime)
    table = contamination_table(read_table(find(name, runtime).file("contamination.parquet"), CONTAMINATION))
    create_table_artifact(
        key="contamination",
        table=table,
        description="Benchmarks in the training tokens, as Llama 2's Table 51",
    )
    return name
