"""Hyper-parameters of the memory core, checked once, when they are given."""

from dataclasses import dataclass
from typing import Any

from sb3_elmur.core.arguments import check_choice, check_count, check_flags, check_range

CORE_NAMES = ("elmur", "gru", "lstm", "mingru", "ffm", "shm", "gtrxl")


@dataclass(frozen=True)
class ElmurConfig:
    """
    Hyper-parameters of one ELMUR stack (arXiv 2510.07151), with the paper's symbols in parentheses, or of a baseline.

    :param core: ``"elmur"``; a baseline with another memory behind the same interface, one of the other :data:`CORE_NAMES`, of
        which only ``n_layers``, ``d_model``, ``segment_length`` and what its class names count; or a memory of your own, a
        subclass of :class:`sb3_elmur.core.recurrent.RecurrentCore` or its path ``"package.module:Class"``.
    :param core_kwargs: Arguments of the core's constructor beside this configuration; ``None`` means none.
    :param d_model: Width of tokens and of memory slots (D), with attention even and divisible by ``n_heads``.
    :param n_layers: Number of layers (N), each with a memory of its own.
    :param n_heads: Attention heads (H) of self-attention, read and write.
    :param segment_length: Steps per segment (L): the reach of self-attention, and one memory write per ``L`` steps.
        For a baseline only the unit in which its state is stored and gradients are cut.
    :param memory_size: Memory slots per layer (M). 0 is a plain transformer that sees nothing but the open segment.
    :param lru_blend: Weight (lambda) in [0, 1] of what is newly written when the least recently written slot
        is overwritten: 1 replaces the slot, 0 keeps it.
    :param blend: How new and old content of a slot are combined: by the paper's constant lambda (``"fixed"``), a trained one
        for each layer (``"learned"``), or a gate that looks at both and keeps or replaces the slot: with new content that is
        formed from the segment alone (``"gated"``), or from the slot's content, too (``"gated_recurrent"``).
    :param gate_bias: Where the logits of gates begin; below 0 they begin closed, and keep what a slot was filled with.
    :param memory_init_std: Standard deviation (sigma) of the initial slot vectors.
    :param max_distance: Reach (K) in steps of the relative bias between tokens and slots; larger distances count as K - 1.
    :param norm_first: Normalise each sublayer's input (pre-norm) instead of its residual sum (post-norm, the paper's).
    :param norm: ``"layer"`` (LayerNorm) or ``"rms"`` (RMSNorm).
    :param ffn: ``"swiglu"``, ``"gelu"`` or ``"moe"`` (DeepSeek-style mixture of SwiGLU experts).
    :param d_ff: Hidden width of the dense feed-forward networks; ``None`` means ``2 * d_model``.
    :param n_routed_experts: Experts of which the router chooses (E).
    :param n_shared_experts: Experts that are always on (S).
    :param top_k: Experts per token, the shared ones included: ``max(1, top_k - n_shared_experts)`` are routed.
    :param router_gate: Weight of a chosen expert: its ``"softmax"`` probability, or ``"renormalised"`` over the chosen.
    :param routed_d_ff: Hidden width of a routed expert; ``None`` means ``d_ff``.
    :param shared_d_ff: Hidden width of a shared expert; ``None`` means ``d_ff``.
    :param aux_loss_coef: Weight of the load-balancing loss of the mixture of experts.
    :param dropout: Dropout on every sublayer's output, before the residual sum.
    :param attention_dropout: Dropout on attention weights.
    :param memory_dropout: Dropout on what is written to memory.
    :param compile: Compile single steps with ``torch.compile``, and segments after which nothing is written (PPO with
        ``bptt_segments=1``). It takes up to a few minutes at the first step and at the first update, needs a C++ compiler, and
        pays most for steps of one environment. ``"auto"`` compiles the steps of rollouts alone, where that pays: see
        :func:`sb3_elmur.training.compiling.compile_rollouts`.
    :raises ValueError: If an argument lies outside its range; the message names it, its value and what is allowed.
    """

    core: str | type = "elmur"
    core_kwargs: dict[str, Any] | None = None
    d_model: int = 128
    n_layers: int = 2
    n_heads: int = 4
    segment_length: int = 16
    memory_size: int = 8
    lru_blend: float = 0.5
    blend: str = "fixed"
    gate_bias: float = -2.0
    memory_init_std: float = 0.1
    max_distance: int = 1024
    norm_first: bool = False
    norm: str = "layer"
    ffn: str = "swiglu"
    d_ff: int | None = None
    n_routed_experts: int = 4
    n_shared_experts: int = 1
    top_k: int = 2
    router_gate: str = "softmax"
    routed_d_ff: int | None = None
    shared_d_ff: int | None = None
    aux_loss_coef: float = 0.01
    dropout: float = 0.0
    attention_dropout: float = 0.0
    memory_dropout: float = 0.0
    compile: bool | str = "auto"

    def __post_init__(self) -> None:
        check_core_name(self.core, self.core_kwargs)
        for name in ("d_model", "n_layers", "n_heads", "segment_length", "max_distance", "n_routed_experts", "top_k"):
            check_count(name, getattr(self, name), 1)
        for name in ("memory_size", "n_shared_experts"):
            check_count(name, getattr(self, name), 0)
        for name in ("d_ff", "routed_d_ff", "shared_d_ff"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name), 1)
        check_range("lru_blend", self.lru_blend, 0.0, 1.0)
        check_range("gate_bias", self.gate_bias, -100.0, 100.0)
        for name in ("memory_init_std", "aux_loss_coef"):
            check_range(name, getattr(self, name), 0.0, float("inf"))
        for name in ("dropout", "attention_dropout", "memory_dropout"):
            check_range(name, getattr(self, name), 0.0, 1.0, open_end=True)
        check_choice("blend", self.blend, ("fixed", "learned", "gated", "gated_recurrent"))
        check_choice("norm", self.norm, ("layer", "rms"))
        check_choice("ffn", self.ffn, ("swiglu", "gelu", "moe"))
        check_choice("router_gate", self.router_gate, ("softmax", "renormalised"))
        check_flags(norm_first=self.norm_first)
        if not isinstance(self.compile, bool) and self.compile != "auto":
            raise ValueError(f"`compile` must be True, False or 'auto'. Received {self.compile!r}.")
        experts = self.n_shared_experts + self.n_routed_experts
        if self.ffn == "moe" and self.top_k > experts:
            raise ValueError(
                f"`top_k` counts the shared experts and must be at most `n_shared_experts` + `n_routed_experts` ({experts}). "
                f"Received {self.top_k}."
            )

    @property
    def core_name(self) -> str:
        """The name of the core, or the path of its class."""
        return self.core if isinstance(self.core, str) else f"{self.core.__module__}:{self.core.__qualname__}"


def check_core_name(core: object, arguments: object) -> None:
    """
    Refuse what names no core, without importing anything.

    :param core: A name, a class, or the path of one.
    :param arguments: Of its constructor.
    :raises ValueError: If one is refused.
    """
    if not isinstance(core, type) and core not in CORE_NAMES:
        module, _, name = core.partition(":") if isinstance(core, str) else ("", "", "")
        if not all(part.isidentifier() for part in (*module.split("."), name)):
            names = ", ".join(map(repr, CORE_NAMES))
            raise ValueError(f"`core` must be one of {names}, a class, or 'package.module:Class'. Received {core!r}.")
    if arguments is not None and not (isinstance(arguments, dict) and all(isinstance(key, str) for key in arguments)):
        raise ValueError(f"`core_kwargs` must map names to values, or be None. Received {arguments!r}.")


def check_heads(config: ElmurConfig) -> None:
    """
    Refuse a width that attention with sinusoids cannot have.

    :param config: Of a core with attention.
    :raises ValueError: If ``d_model`` is odd, or no multiple of ``n_heads``.
    """
    if config.d_model % config.n_heads:
        raise ValueError(f"`d_model` must be divisible by `n_heads` ({config.n_heads}). Received {config.d_model}.")
    if config.d_model % 2:
        raise ValueError(f"`d_model` must be even, for pairs of sine and cosine. Received {config.d_model}.")
