"""The corpus: filtered, deduplicated documents. Llama 2 section 2.1."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.corpus_steps import CorpusRecipe, build_corpus, corpus_identity
from tasks.launch import Job, build
from tasks.runtime import Runtime


@task(name="corpus", task_run_name="corpus", cache_policy=NO_CACHE)
def corpus(recipe: CorpusRecipe, runtime: Runtime) -> str:
    """Build the corpus from its sources; local files count by content."""
    job = Job("corpus", "corpus", recipe, inputs=corpus_identity(recipe))
    return build(job, runtime, lambda directory: build_corpus(recipe, directory))
