"""What hyperplug takes from vLLM, symbol by symbol, and the releases in which all of it was found.

This list is what a new release of vLLM is held against: `hyperplug_vllm.sources` reads a release's
source files and compares. What is not listed here must not be used.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

# The name by which VLLM_PLUGINS and the entry points know us.
PLUGIN_NAME = "hyperplug"
PLUGIN_GROUP = "vllm.endpoint_plugins"
GENERAL_GROUP = "vllm.general_plugins"
SERVER_MODULE = "vllm.entrypoints.openai.api_server"
# Our own: vLLM's `serve`, which starts as many API servers as its flags say.
COMMAND_MODULE = "hyperplug_vllm.command"
MIDDLEWARE = "hyperplug_vllm.standalone.HyperplugMiddleware"
# vLLM refuses any other --max-lora-rank.
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)

# The range of supported releases, as (major, minor), both ends included. `make contract` finds it.
OLDEST = (0, 13)
NEWEST = (0, 33)
# The first release that has endpoint plugins. Before it, hyperplug comes in by --middleware.
FIRST_WITH_PLUGINS = (0, 26)


class Way(StrEnum):
    """How hyperplug comes into a server."""

    PLUGIN = "plugin"
    MIDDLEWARE = "middleware"


class Use(StrEnum):
    """What hyperplug, or vLLM on its behalf, does with a symbol."""

    RUN = "run"
    """The module is started with `python -m`."""
    CALL = "call"
    """We call it with the parameters in `takes`, by position."""
    AWAIT = "await"
    """As CALL, and we wait for it: it has to be a coroutine."""
    IMPLEMENT = "implement"
    """vLLM calls it on an object of ours, with exactly the parameters in `takes`."""
    READ = "read"
    """We read this attribute of the class's objects."""
    MAPPING = "mapping"
    """We read and change this attribute of the class's objects: a dict."""
    SET = "set"
    """vLLM sets this attribute, such as "state.args", in one of its functions."""
    VALUES = "values"
    """The literal type has exactly the values in `takes`."""
    TEXT = "text"
    """The module says this very string: an entry-point group, a variable."""
    USED = "used"
    """The module itself uses this expression, such as "args.middleware"."""
    FLAG = "flag"
    """The launch flag of this name exists."""
    ORDER = "order"
    """In the function, one of the names in `takes[0]` stands before all of those in `takes[1]`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Symbol:
    """One thing of vLLM that hyperplug depends on.

    Attributes:
        modules: where it may live; releases move it. All are looked at.
        name: a path of attributes in the module, such as "AsyncLLM.add_lora".
        takes: parameters, values or names, see `Use`.
        why: what breaks without it.
        ways: how hyperplug comes in where it is needed.
    """

    modules: tuple[str, ...]
    name: str
    use: Use
    why: str
    takes: tuple[object, ...] = ()
    ways: tuple[Way, ...] = (Way.PLUGIN, Way.MIDDLEWARE)

    def __str__(self) -> str:
        """Returns it as it stands in a finding."""
        return f"{self.modules[0]}: {self.use.value} {self.name}"


_LORA = ("vllm.lora.request",)
_MODELS = ("vllm.entrypoints.openai.models.serving", "vllm.entrypoints.openai.serving_models")
_ENGINE = ("vllm.v1.engine.async_llm",)
_PLUGINS = ("vllm.plugins",)
_INTERFACE = ("vllm.plugins.endpoint_plugins.interface",)
_ENVS = ("vllm.envs",)
_FLAGS = (
    "vllm.engine.arg_utils",
    "vllm.entrypoints.common.cli_args",
    "vllm.entrypoints.launchers.cli_args",
    "vllm.entrypoints.openai.cli_args",
)
_SERVE = ("vllm.entrypoints.cli.serve",)
_APP = ("vllm.entrypoints.launchers.app", SERVER_MODULE)
_APP_STATE = ("vllm.entrypoints.launchers.api_server.app_state", SERVER_MODULE)
_MIDDLEWARE = ("vllm.entrypoints.serve.middleware.register", SERVER_MODULE)
_METRICS = ("vllm.v1.metrics.prometheus",)
_ATTACH = ("attach_endpoint_plugins", "_attach_endpoint_plugins")
_INIT = ("init_endpoint_plugins_state", "_init_endpoint_plugins_state")
_ONLY_PLUGIN = (Way.PLUGIN,)
_ONLY_MIDDLEWARE = (Way.MIDDLEWARE,)


def _flags(*names: str, ways: tuple[Way, ...] = tuple(Way)) -> tuple[Symbol, ...]:
    why = "`hyperplug serve` sets it, or the server's start reads it"
    return tuple(
        Symbol(modules=_FLAGS, name=name, use=Use.FLAG, why=why, ways=ways) for name in names
    )


def _variables(*names: str) -> tuple[Symbol, ...]:
    why = "`hyperplug serve` sets it, or the server's start reads it"
    return tuple(Symbol(modules=_ENVS, name=name, use=Use.TEXT, why=why) for name in names)


SYMBOLS: tuple[Symbol, ...] = (
    # Adapters: what the engine loads and what the front end lists.
    Symbol(
        modules=_LORA,
        name="LoRARequest",
        use=Use.CALL,
        takes=("lora_name", "lora_int_id", "lora_path"),
        why="names an adapter's folder to the engine",
    ),
    Symbol(
        modules=_ENGINE,
        name="AsyncLLM.add_lora",
        use=Use.AWAIT,
        takes=("lora_request",),
        why="loads an adapter while the server runs",
    ),
    Symbol(
        modules=_ENGINE,
        name="AsyncLLM.remove_lora",
        use=Use.AWAIT,
        takes=("lora_id",),
        why="makes room for another adapter",
    ),
    Symbol(
        modules=_MODELS,
        name="OpenAIServingModels.lora_requests",
        use=Use.MAPPING,
        why="lists an adapter under its name, for requests and /v1/models",
    ),
    Symbol(
        modules=_MODELS,
        name="OpenAIServingModels.base_model_paths",
        use=Use.READ,
        why="tells the names of the base model",
    ),
    Symbol(
        modules=("vllm.entrypoints.openai.models.protocol", *_MODELS),
        name="BaseModelPath.name",
        use=Use.READ,
        why="is the base model's served name",
    ),
    Symbol(
        modules=_MODELS,
        name="OpenAIServingModels.is_base_model",
        use=Use.CALL,
        takes=("model_name",),
        why="tells requests that are for vLLM alone",
    ),
    Symbol(
        modules=("vllm.config.lora",),
        name="MaxLoRARanks",
        use=Use.VALUES,
        takes=LORA_RANKS,
        why="bounds --max-lora-rank",
    ),
    # The server and its state.
    Symbol(
        modules=(SERVER_MODULE,), name="__main__", use=Use.RUN, why="is how the server is started"
    ),
    Symbol(
        modules=_SERVE,
        name="ServeSubcommand",
        use=Use.CALL,
        why="starts several API servers, which the module above does not",
    ),
    *(
        Symbol(
            modules=_SERVE,
            name=f"ServeSubcommand.{method}",
            use=Use.CALL,
            takes=(takes,),
            why="is a step of that command",
        )
        for method, takes in (
            ("subparser_init", "subparsers"),
            ("validate", "args"),
            ("cmd", "args"),
        )
    ),
    Symbol(
        modules=("vllm.utils.argparse_utils",),
        name="FlexibleArgumentParser",
        use=Use.CALL,
        why="reads that command's flags",
    ),
    Symbol(
        modules=_APP,
        name="app.state.args",
        use=Use.SET,
        why="tells model, LoRA flags, settings and API keys",
    ),
    Symbol(
        modules=_APP_STATE,
        name="state.openai_serving_models",
        use=Use.SET,
        why="is the list of models that requests are checked against",
    ),
    Symbol(
        modules=_APP_STATE,
        name="state.engine_client",
        use=Use.SET,
        why="is the engine, which a middleware has to find for itself",
        ways=_ONLY_MIDDLEWARE,
    ),
    Symbol(
        modules=("vllm.logger",),
        name="init_logger",
        use=Use.CALL,
        takes=("name",),
        why="gives our lines vLLM's form",
    ),
    # Endpoint plugins.
    Symbol(
        modules=_PLUGINS,
        name=PLUGIN_GROUP,
        use=Use.TEXT,
        why="is the entry-point group under which vLLM finds us",
        ways=_ONLY_PLUGIN,
    ),
    Symbol(
        modules=_INTERFACE,
        name="EndpointPlugin.name",
        use=Use.READ,
        why="is part of the protocol that we satisfy",
        ways=_ONLY_PLUGIN,
    ),
    Symbol(
        modules=_INTERFACE,
        name="EndpointPlugin.required_tasks",
        use=Use.READ,
        why="is part of the protocol that we satisfy",
        ways=_ONLY_PLUGIN,
    ),
    Symbol(
        modules=_INTERFACE,
        name="EndpointPlugin.attach_router",
        use=Use.IMPLEMENT,
        takes=("app",),
        why="is where our routes and middleware come in",
        ways=_ONLY_PLUGIN,
    ),
    Symbol(
        modules=_INTERFACE,
        name="EndpointPlugin.init_state",
        use=Use.IMPLEMENT,
        takes=("engine_client", "state", "args"),
        why="hands us the engine",
        ways=_ONLY_PLUGIN,
    ),
    Symbol(
        modules=("vllm.tasks",),
        name="generate",
        use=Use.TEXT,
        why="is the task that a server must have for our plugin to be loaded",
        ways=_ONLY_PLUGIN,
    ),
    Symbol(
        modules=_APP,
        name="build_app",
        use=Use.ORDER,
        takes=(_ATTACH, ("init_entrypoints_middleware", "AuthenticationMiddleware")),
        why="puts the API key's check around our middleware: strangers reach no lookup",
        ways=_ONLY_PLUGIN,
    ),
    Symbol(
        modules=_APP_STATE,
        name="init_app_state",
        use=Use.ORDER,
        takes=(("OpenAIServingModels",), _INIT),
        why="has the list of models ready when our plugin is handed the state",
        ways=_ONLY_PLUGIN,
    ),
    # What tells operators: metrics and traces.
    Symbol(
        modules=_METRICS,
        name="REGISTRY",
        use=Use.USED,
        why="is prometheus_client's registry, whose metrics stand on vLLM's /metrics",
    ),
    Symbol(
        modules=_METRICS,
        name="PROMETHEUS_MULTIPROC_DIR",
        use=Use.TEXT,
        why="joins the metrics of several API servers",
    ),
    Symbol(
        modules=("vllm.tracing.utils", "vllm.tracing"),
        name="traceparent",
        use=Use.TEXT,
        why="is the header that makes our spans part of vLLM's trace",
    ),
    # Processes: each of vLLM's ends with its parent.
    Symbol(
        modules=_PLUGINS,
        name=GENERAL_GROUP,
        use=Use.TEXT,
        why="ties each process to its parent, so that no engine is left over, and mends it",
    ),
    # What is mended in the engine, where rows could get another request's adapter.
    Symbol(
        modules=("vllm.lora.ops.torch_ops.lora_ops",),
        name="bgmv_shrink",
        use=Use.CALL,
        takes=("inputs", "lora_b_weights", "output_tensor", "lora_indices_tensor", "scaling"),
        why="gives rows without an adapter nothing, on a CPU",
    ),
    Symbol(
        modules=("vllm.lora.punica_wrapper.punica_cpu",),
        name="bgmv_shrink",
        use=Use.USED,
        why="is where it is used, under the name that is mended",
    ),
    Symbol(
        modules=("vllm.lora.model_manager", "vllm.lora.models"),
        name="LoRAModelManager.activate_adapter",
        use=Use.CALL,
        takes=("lora_id",),
        why="tells when slots change, where the release does not look at them itself",
    ),
    # Middleware, where there are no endpoint plugins.
    Symbol(
        modules=_MIDDLEWARE,
        name="args.middleware",
        use=Use.USED,
        why="is where a class named by --middleware comes in",
        ways=_ONLY_MIDDLEWARE,
    ),
    *_flags("--middleware", "--api-key", ways=_ONLY_MIDDLEWARE),
    *_flags(
        "--model",
        "--revision",
        "--served-model-name",
        "--dtype",
        "--enable-lora",
        "--max-loras",
        "--max-cpu-loras",
        "--max-lora-rank",
        "--additional-config",
    ),
    *_variables(
        "VLLM_PLUGINS",
        "VLLM_API_KEY",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING",
        "VLLM_CPU_KVCACHE_SPACE",
        "VLLM_NO_USAGE_STATS",
        "VLLM_WORKER_MULTIPROC_METHOD",
    ),
)


def way_into(release: tuple[int, int]) -> Way:
    """Returns how hyperplug comes into a server of that release."""
    return Way.PLUGIN if release >= FIRST_WITH_PLUGINS else Way.MIDDLEWARE


def supported_range() -> str:
    """Returns the range as people write it."""
    return f"{OLDEST[0]}.{OLDEST[1]} to {NEWEST[0]}.{NEWEST[1]}"
