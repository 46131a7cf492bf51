"""A made-up vLLM release: just the source files that the contract reads."""

from __future__ import annotations

from pathlib import Path

_FLAGS = (
    "--model",
    "--revision",
    "--served-model-name",
    "--dtype",
    "--enable-lora",
    "--max-loras",
    "--max-cpu-loras",
    "--max-lora-rank",
    "--additional-config",
)
_VARIABLES = (
    "VLLM_PLUGINS",
    "VLLM_API_KEY",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING",
    "VLLM_CPU_KVCACHE_SPACE",
    "VLLM_NO_USAGE_STATS",
    "VLLM_WORKER_MULTIPROC_METHOD",
)
_SERVER = """
def build_app(args: Any) -> Any:
    app = FastAPI()
    app.state.args = args
    attach_endpoint_plugins(app)
    app.add_middleware(AuthenticationMiddleware, tokens=args.api_key)
    for name in args.middleware:
        app.add_middleware(name)
    return app


async def init_app_state(engine_client: Any, state: Any, args: Any) -> None:
    state.engine_client = engine_client
    state.openai_serving_models = OpenAIServingModels(engine_client)
    await init_endpoint_plugins_state(engine_client, state, args)


if __name__ == "__main__":
    build_app(None)
"""
_FILES = {
    "lora/request": """
class LoRARequest(Struct):
    lora_name: str
    lora_int_id: int
    lora_path: str = ""
    rank: int = 0
""",
    "lora/ops/torch_ops/lora_ops": """
def bgmv_shrink(
    inputs: Tensor,
    lora_b_weights: Tensor,
    output_tensor: Tensor,
    lora_indices_tensor: Tensor,
    scaling: float = 1.0,
) -> None: ...
""",
    "lora/punica_wrapper/punica_cpu": """
from vllm.lora.ops.torch_ops import bgmv_shrink


def shrink() -> None:
    bgmv_shrink()
""",
    "lora/model_manager": """
class LoRAModelManager:
    def activate_adapter(self, lora_id: int) -> bool: ...
""",
    "v1/engine/async_llm": """
class AsyncLLM:
    async def add_lora(self, lora_request: LoRARequest) -> bool: ...
    async def remove_lora(self, lora_id: int) -> bool: ...
""",
    "v1/metrics/prometheus": """
def get_prometheus_registry() -> CollectorRegistry:
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        return CollectorRegistry()
    return REGISTRY
""",
    "tracing/utils": 'TRACE_HEADERS = ["traceparent", "tracestate"]\n',
    "entrypoints/openai/models/serving": """
class OpenAIServingModels:
    def __init__(self, engine_client: Any, base_model_paths: list[BaseModelPath]) -> None:
        self.base_model_paths = base_model_paths
        self.lora_requests: dict[str, LoRARequest] = {}

    def is_base_model(self, model_name: str) -> bool: ...
""",
    "entrypoints/openai/models/protocol": """
class BaseModelPath:
    name: str
    model_path: str
""",
    "config/lora": "MaxLoRARanks = Literal[1, 8, 16, 32, 64, 128, 256, 320, 512]\n",
    "logger": "def init_logger(name: str) -> Logger: ...\n",
    "tasks": 'GenerationTask = Literal["generate", "render"]\n',
    "plugins/__init__": """
DEFAULT_PLUGINS_GROUP = "vllm.general_plugins"
ENDPOINT_PLUGINS_GROUP = "vllm.endpoint_plugins"
""",
    "plugins/endpoint_plugins/interface": """
class EndpointPlugin(Protocol):
    name: str
    required_tasks: tuple[str, ...] | None

    def attach_router(self, app: Any) -> None: ...
    async def init_state(self, engine_client: Any, state: Any, args: Any) -> None: ...
""",
    "entrypoints/openai/cli_args": """
class FrontendArgs:
    api_key: list[str] | None = None
    middleware: list[str] = field(default_factory=list)
""",
    "entrypoints/openai/api_server": _SERVER,
    "entrypoints/cli/serve": """
class ServeSubcommand(CLISubcommand):
    @staticmethod
    def cmd(args: Namespace) -> None: ...
    def validate(self, args: Namespace) -> None: ...
    def subparser_init(self, subparsers: Any) -> FlexibleArgumentParser: ...
""",
    "utils/argparse_utils": "class FlexibleArgumentParser(ArgumentParser): ...\n",
    "engine/arg_utils": "".join(f'parser.add_argument("{flag}")\n' for flag in _FLAGS),
    "envs": "".join(f'environment_variables["{name}"] = None\n' for name in _VARIABLES),
}


def write_tree(folder: Path, *, release: tuple[int, int]) -> None:
    """Writes a release with all that hyperplug touches into `folder`."""
    version = f"__version__ = version = '{release[0]}.{release[1]}.0'\n"
    for name, content in {**_FILES, "_version": version}.items():
        file = folder / "vllm" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, encoding="utf-8")
