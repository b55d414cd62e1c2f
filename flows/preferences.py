"""Comparisons of people, from the log of annotations to what reward models learn from. Llama 2 section 3.2.1."""

from prefect import flow

from tasks.preferences import frozen_batch, preference_tables
from tasks.runtime import Runtime


@flow(name="freeze", flow_run_name="freeze {batch}")
def freeze(batch: str, runtime: Runtime = Runtime(), tokenizer: str = "") -> str:
    """Make a frozen batch an artifact that `reward` takes beside those of the simulated annotator."""
    made = frozen_batch(batch, runtime, tokenizer)
    preference_tables(made, runtime)
    return made
