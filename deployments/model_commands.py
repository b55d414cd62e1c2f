"""The commands that use a model: chat, complete, convert, extend, register. Imports wait: torch takes seconds."""
# ruff: noqa: PLC0415

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from deployments.environment import prepare
from llama2_core.errors import ConfigError, DataError
from storage.artifacts import Store
from tasks.stage_models import model_artifact

if TYPE_CHECKING:
    from llama2_core.model import Transformer
    from llama2_core.tokenizer import Tokenizer

app = typer.Typer()
console = Console()

Home = Annotated[Path, typer.Option(help="Folder that runs write to.")]
Adapters = Annotated[
    list[Path] | None, typer.Option("--adapter", help="A PEFT adapter to merge; repeatable.")
]
Temperature = Annotated[float, typer.Option(min=0, help="0 is greedy.")]
TopP = Annotated[float, typer.Option(min=0, max=1)]
TopK = Annotated[int | None, typer.Option(min=1, help="Most tokens to choose among.")]
Penalty = Annotated[float, typer.Option(help="Above 1, words that were said become less likely.")]
DType = Annotated[
    Literal["float32", "bfloat16"], typer.Option(help="Of the weights; bfloat16 takes half the memory.")
]
Device = Annotated[Literal["cpu", "cuda"], typer.Option(help="Where the model runs.")]
MaxTokens = Annotated[int, typer.Option(min=1, help="Longest answer.")]
Model = Annotated[
    str,
    typer.Argument(
        help="A model directory, GGUF file, artifact, or champion; by default what the gate kept, or the newest."
    ),
]
DIALOGS = '.jsonl, a line {"messages": [{"role", "content"}, ...]} each'
Dialogs = Annotated[Path, typer.Argument(help=f"{DIALOGS}.")]
Changes = Annotated[list[str] | None, typer.Option("--set", help="path=value; repeatable.")]
Destination = Annotated[Path, typer.Argument(metavar="DEST", help="A path that does not exist yet.")]


@app.command(epilog="Examples: llama2 chat;  llama2 chat sft;  llama2 chat llama-2-7b-chat/ --temperature 0")
def chat(
    model: Model = "champion",
    adapters: Adapters = None,
    home: Home = Path("var"),
    temperature: Temperature = 0.6,
    top_p: TopP = 0.9,
    top_k: TopK = None,
    repetition_penalty: Penalty = 1.0,
    max_tokens: MaxTokens = 256,
    template: Annotated[
        Literal["llama2", "atom"], typer.Option(help="Of the dialog; atom is Llama-Chinese's.")
    ] = "llama2",
    dtype: DType = "float32",
    device: Device = "cpu",
) -> None:
    """Talk to a chat model: /system TEXT, /reset, Ctrl-D."""
    from deployments.terminal import converse
    from llama2_core.config import SamplingConfig

    config = SamplingConfig(
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        repetition_penalty=repetition_penalty,
        max_new_tokens=max_tokens,
    )
    converse(*_load(model, home, adapters, dtype, device), config, console, template)


@app.command(epilog="Example: llama2 complete base 'Question: What is 3 + 4? Answer:' --temperature 0")
def complete(
    model: Model,
    prompt: Annotated[str, typer.Argument(help="The text to go on from.")],
    adapters: Adapters = None,
    home: Home = Path("var"),
    temperature: Temperature = 0.6,
    top_p: TopP = 0.9,
    top_k: TopK = None,
    repetition_penalty: Penalty = 1.0,
    max_tokens: MaxTokens = 256,
    seed: Annotated[int, typer.Option()] = 1,
    dtype: DType = "float32",
    device: Device = "cpu",
) -> None:
    """Continue a text."""
    from llama2_core.completion import stream_completion
    from llama2_core.config import SamplingConfig
    from llama2_core.generate import Request

    policy, tokenizer = _load(model, home, adapters, dtype, device)
    config = SamplingConfig(
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        repetition_penalty=repetition_penalty,
        max_new_tokens=max_tokens,
    )
    request = Request(tokenizer.encode(prompt, bos=True), seed, config)
    for piece in stream_completion(policy, tokenizer, request):
        print(piece, end="", flush=True)
    print()


@app.command(
    epilog="Examples: llama2 convert sft DEST --to huggingface;  llama2 convert llama-2-7b/ 7b.gguf --to gguf "
    "--quantization q8_0;  llama2 convert llama-2-7b/ merged --to native --adapter my-adapter/"
)
def convert(
    source: Model,
    destination: Destination,
    to: Annotated[Literal["meta", "huggingface", "gguf", "native"], typer.Option(help="The format of DEST.")],
    shards: Annotated[
        int | None, typer.Option(min=1, help="Files: exactly so many for meta, at most for safetensors.")
    ] = None,
    quantization: Annotated[
        Literal["f32", "f16", "q8_0", "q4_0"] | None, typer.Option(help="Of a GGUF; f32 when not said.")
    ] = None,
    adapters: Adapters = None,
    home: Home = Path("var"),
) -> None:
    """Convert a model to another format, with a model card; read it back, and compare tokens and logits."""
    from llama2_core.interop.convert import convert as convert_model

    path = model_path(source, home)
    card = _card(destination.name.removesuffix(".gguf"), path, to, home, adapters)
    found = convert_model(path, destination, to, shards, quantization, adapters or (), card)
    console.print(
        f"{destination}: logits differ by at most {found.largest:.3g}, root mean square {found.relative:.3g} "
        f"of their standard deviation (bound {found.bound:g}); the same token is likeliest at "
        f"{100 * found.same_likeliest:.1f}% of the places; the same tokens in 20 scripts"
    )


@app.command(epilog="Example: llama2 extend llama-2-7b/ llama-2-7b-zh --text chinese.txt --pieces 20000")
def extend(
    source: Model,
    destination: Destination,
    texts: Annotated[list[Path], typer.Option("--text", help="Text of the new language; repeatable.")],
    pieces: Annotated[int, typer.Option(min=300, help="Vocabulary of the tokenizer trained on it.")],
    home: Home = Path("var"),
) -> None:
    """Extend a model's vocabulary: train pieces on a second language, add them behind the old ones."""
    from llama2_core.interop import native
    from llama2_core.interop.convert import appearing, read
    from llama2_core.tokenizer import train_tokenizer
    from llama2_core.vocabulary import characters_per_token, extend_model, extend_tokenizer

    lines = {path: _lines(path) for path in texts}
    with appearing(destination) as partial:
        model = read(model_path(source, home))
        added = train_tokenizer((line for found in lines.values() for line in found), pieces)
        tokenizer = extend_tokenizer(model.tokenizer, added)
        native.write(extend_model(model, tokenizer), partial)
    table = Table("text", "characters", "characters per token before", "after")
    for path, found in lines.items():
        ratios = (f"{characters_per_token(used, found):.2f}" for used in (model.tokenizer, tokenizer))
        table.add_row(str(path), str(sum(map(len, found))), *ratios)
    console.print(table)
    console.print(
        f"{destination}: {model.tokenizer.vocab_size} pieces kept, "
        f"{tokenizer.vocab_size - model.tokenizer.vocab_size} added; now train it on the new language"
    )


@app.command(
    epilog="Example: llama2 register; mlflow models serve -m models:/llama2-chat@champion --env-manager local"
)
def register(
    model: Model = "",
    name: Annotated[str, typer.Option(help="Of the registered model.")] = "llama2-chat",
    alias: Annotated[str, typer.Option(help="Given to the new version.")] = "champion",
    adapters: Adapters = None,
    home: Home = Path("var"),
) -> None:
    """Put a chat model into MLflow's registry, ready for `mlflow models serve`."""
    prepare(home)
    from tasks.registry import register as register_version
    from tasks.runtime import Runtime

    version = register_version(
        model_path(model, home), alias, Runtime(home=home), name, adapters=adapters or ()
    )
    console.print(f"models:/{name}/{version} is {alias} now. Serve it:")
    console.print(
        f"  MLFLOW_TRACKING_URI=sqlite:///{home}/mlflow.db mlflow models serve -m models:/{name}@{alias} "
        "--env-manager local"
    )


@app.command(
    epilog="Examples: llama2 adapt llama-2-7b/ chats.jsonl mine.yaml;  "
    "llama2 adapt base chats.jsonl mine.yaml --set recipe.pretrain.loop.steps=500"
)
def adapt(
    model: Model,
    dialogs: Dialogs,
    profile: Annotated[Path, typer.Argument(help="A YAML file: which texts, how; see docs/adaptation.md.")],
    changes: Changes = None,
    home: Home = Path("var"),
) -> None:
    """Teach a model another language: vocabulary, continued pretraining, fine-tuning, export."""
    prepare(home)
    from deployments.profiles import AdaptProfile, read_profile, with_home
    from deployments.services.flow_runs import running_flows
    from llama2_core.interop.convert import read
    from tasks.own import demonstrations

    chosen = read_profile(AdaptProfile, profile, with_home(changes, home))
    source = model_path(model, home)
    read(source)
    demonstrations(dialogs)
    with running_flows(home):
        from flows.adapt import adapt as adapt_flow

        made = adapt_flow(source, dialogs, chosen.recipe, chosen.seed, chosen.runtime)
    store = Store(home / "artifacts")
    measured = store.resolve(made["adaptation"]).summary
    table = Table("model", "characters per token", "bits per character")
    for name in ("imported", "start", "continued"):
        table.add_row(name, *(f"{value:.3f}" for value in measured[name].values()))
    console.print(table)
    console.print(f"on {measured['held_out_characters']:,} held-out characters")
    console.print(f"[bold green]Done.[/] llama2 chat {made['chat'][:17]} --home {home}; it leaves in")
    for form in chosen.recipe.export:
        console.print(f"  {form:12} {store.resolve(made[form]).path}")


def model_path(model: str, home: Path) -> Path:
    """Return where a model is: a path, an alias of the registry, an artifact, or what the gate kept, first champion."""
    if model and Path(model).exists():
        return Path(model)
    if model in ("champion", "candidate", "previous"):
        if place := registered(home).get(f"models:/llama2-chat@{model}"):
            console.print(f"[dim]{model}: {place}[/]")
            return Path(place)
        model = model.removeprefix("champion")
    store = Store(home / "artifacts")
    artifact = model_artifact(model, store)
    console.print(f"[dim]{artifact.name}[/]")
    store.verify(artifact)
    return artifact.path


def _card(name: str, path: Path, to: str, home: Path, adapters: list[Path] | None) -> str:
    from tasks.model_card import known_at, model_card

    return model_card(
        known_at(name, path, Store(home / "artifacts")), to, [each.name for each in adapters or ()]
    )


def registered(home: Path) -> dict[str, str]:
    """Return "models:/name@alias" -> directory, of MLflow's registry, where its weights are still where they were."""
    if not (home / "mlflow.db").exists():
        return {}
    from storage.tracking import Tracker
    from tasks.runtime import Runtime

    runtime = Runtime(home=home)
    found = Tracker(runtime.tracking_uri, runtime.experiment, home / "mlflow").registered()
    return {name: place for name, place in found.items() if Path(place).exists()}


def _load(
    model: str, home: Path, adapters: list[Path] | None, dtype: str, device: str
) -> "tuple[Transformer, Tokenizer]":
    import torch

    from llama2_core.interop.convert import load

    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: PyTorch finds no CUDA device here; leave the option out")
    return load(model_path(model, home), adapters or (), getattr(torch, dtype), device)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text: {error}") from error
