"""
An independent, slow and obviously right ELMUR: one episode, one token, one head at a time, in float64.

It follows DESIGN.md section 1 line by line and shares no code with the package. Parameters are a dictionary with the names
of the golden cases; :func:`to_state_dict` maps them to the package's modules.
"""

import math

import torch as th
from torch import Tensor

Params = dict[str, Tensor]


def random_params(config: dict, seed: int) -> Params:
    """Parameters of a stack, random, float64; ``config`` has the keys of the golden cases."""
    rng = th.Generator().manual_seed(seed)
    d, heads = config["d_model"], config["n_head"]

    def normal(*shape: int) -> Tensor:
        return 0.4 * th.randn(*shape, generator=rng, dtype=th.float64)

    params = {"r_w_bias": normal(heads, d // heads), "r_r_bias": normal(heads, d // heads)}
    for n in range(config["n_layer"]):
        p = f"layers.{n}."
        params[p + "self_attention.qkv_net.weight"] = normal(3 * d, d)
        params[p + "self_attention.r_net.weight"] = normal(d, d)
        params[p + "self_attention.o_net.weight"] = normal(d, d)
        for attention in ("cross_attention1", "cross_attention2"):
            for w in ("w_q", "w_k", "w_v", "w_o"):
                params[f"{p}{attention}.{w}.weight"] = normal(d, d)
            params[f"{p}{attention}.w_o.bias"] = normal(d)
        params[p + "cross_rel_bias.bias.weight"] = normal(2 * config["max_seq_len"] - 1, heads)
        norms = ("self_attention.layer_norm", "token_norm_cross", "memory_norm_cross")
        for norm in (*norms, "token_ffn.layer_norm", "memory_ffn.layer_norm"):
            params[f"{p}{norm}.weight"] = 1 + normal(d)
            if config["norm_type"] == "layer":
                params[f"{p}{norm}.bias"] = normal(d)
        for ffn in ("token_ffn", "memory_ffn"):
            core = f"{p}{ffn}.core_net."
            if config["use_moe"]:
                params[core + "router.linear.weight"] = normal(config["num_experts"], d)
                experts = [(f"experts.{e}.swiglu.", config["routed_d_ff"]) for e in range(config["num_experts"])]
                experts += [(f"shared_experts.{e}.swiglu.", config["shared_d_ff"]) for e in range(config["n_shared_experts"])]
                for name, width in experts:
                    params[core + name + "gate_proj.weight"] = normal(width, d)
                    params[core + name + "up_proj.weight"] = normal(width, d)
                    params[core + name + "down_proj.weight"] = normal(d, width)
            elif config["use_swiglu"]:
                params[core + "gate_proj.weight"] = normal(config["d_ff"], d)
                params[core + "up_proj.weight"] = normal(config["d_ff"], d)
                params[core + "down_proj.weight"] = normal(d, config["d_ff"])
            else:
                params[core + "0.weight"], params[core + "0.bias"] = normal(config["d_ff"], d), normal(config["d_ff"])
                params[core + "3.weight"], params[core + "3.bias"] = normal(d, config["d_ff"]), normal(d)
        if config.get("blend") == "learned":
            params[p + "blend.logit"] = normal(1)[0]
        if config.get("blend") in ("gated", "gated_recurrent"):
            for name, shape in (
                ("hidden.weight", (d, 2 * d)),
                ("hidden.bias", (d,)),
                ("logit.weight", (1, d)),
                ("logit.bias", (1,)),
            ):
                params[f"{p}blend.{name}"] = 2 * normal(*shape)
    return params


class SlowElmur:
    """
    One episode of one environment.

    :param config: As in the golden cases; ``router_gate`` (default ``renormalised``) and ``detach`` (default False) too.
    :param params: Parameters by golden name.
    :param initial_slots: (N, M, D).
    """

    def __init__(self, config: dict, params: Params, initial_slots: Tensor) -> None:
        self.config, self.params = config, params
        self.initial_slots = initial_slots
        self.slots = [list(layer) for layer in initial_slots]
        self.anchors = [-1] * config["memory_size"]
        self.time = 0
        self.inputs: list[Tensor] = []  # of the open segment, first layer
        self.router_stats: dict[str, list[tuple[Tensor, list[int]]]] = {}

    def step(self, token: Tensor) -> Tensor:
        """Output (D,) for the next token (D,); writes memory when it completes a segment."""
        self.inputs.append(token)
        last_of_segment = len(self.inputs) == self.config["L"]
        start = self.time - len(self.inputs) + 1
        hidden = self.inputs
        layer_outputs = []
        for n in range(self.config["n_layer"]):
            # only the newest token's router statistics count: the earlier tokens' were counted when they came
            hidden = [self._token(n, hidden[: i + 1], start + i, count=i == len(hidden) - 1) for i in range(len(hidden))]
            layer_outputs.append(hidden)
        if last_of_segment:
            self._write(layer_outputs, start)
            self.inputs = []
        self.time += 1
        return hidden[-1]

    def aux_loss(self) -> Tensor:
        """E/k sum_e f_e P_e, averaged over the routers."""
        chosen_count = max(1, self.config["top_k"] - self.config["n_shared_experts"])
        experts = self.config["num_experts"]
        losses = []
        for stats in self.router_stats.values():
            choices = [e for _, chosen in stats for e in chosen]
            f = [choices.count(e) / len(choices) for e in range(experts)]
            p = sum(probabilities for probabilities, _ in stats) / len(stats)
            losses.append(experts / chosen_count * sum(f[e] * p[e] for e in range(experts)))
        return sum(losses) / len(losses)

    def _token(self, n: int, x: list[Tensor], time: int, count: bool) -> Tensor:
        """Output of layer n for the last of the tokens ``x`` of a segment, which stands at ``time``."""
        p = f"layers.{n}."

        def attend(normed: list[Tensor]) -> Tensor:
            return self._self_attention(p + "self_attention.", normed)

        h = self._residual(p + "self_attention.layer_norm", x[-1], lambda _: attend([self._pre(p, y) for y in x]))
        h = self._residual(p + "token_norm_cross", h, lambda y: self._read(n, y, time))
        return self._residual(p + "token_ffn.layer_norm", h, lambda y: self._ffn(p + "token_ffn.core_net.", y, count))

    def _pre(self, p: str, x: Tensor) -> Tensor:
        return self._norm(p + "self_attention.layer_norm", x) if self.config["pre_lnorm"] else x

    def _write(self, outputs: list[list[Tensor]], start: int) -> None:
        slot = self.anchors.index(-1) if -1 in self.anchors else self.anchors.index(min(self.anchors))
        for n, h in enumerate(outputs):
            p = f"layers.{n}."
            old = self.slots[n][slot]
            times = [start + i for i in range(len(h))]
            gated = self.config.get("blend") == "gated"
            c = self._residual(
                p + "memory_norm_cross",
                self.initial_slots[n][slot] if gated else old,
                lambda y: self._cross(n, "cross_attention2", y, h, [self.anchors[slot] - t for t in times]),  # noqa: B023
            )
            c = self._residual(p + "memory_ffn.layer_norm", c, lambda y: self._ffn(p + "memory_ffn.core_net.", y, True))  # noqa: B023
            blend = 1.0 if self.anchors[slot] == -1 else self._blend(p + "blend.", old, c)
            new = blend * c + (1 - blend) * old
            self.slots[n][slot] = new.detach() if self.config.get("detach") else new
        self.anchors[slot] = start + self.config["L"] - 1

    def _blend(self, p: str, old: Tensor, candidate: Tensor) -> Tensor | float:
        if self.config.get("blend", "fixed") == "fixed":
            return self.config["lru_blend_alpha"]
        if self.config["blend"] == "learned":
            return th.sigmoid(self.params[p + "logit"])
        a = self.params[p + "hidden.weight"] @ th.cat((candidate, old)) + self.params[p + "hidden.bias"]
        z = (self.params[p + "logit.weight"] @ (a * th.sigmoid(a)) + self.params[p + "logit.bias"])[0]
        fast_sigmoid = z / (2 * (1 + z.abs()))
        return float(z > 0) + fast_sigmoid - fast_sigmoid.detach()

    def _residual(self, norm: str, x: Tensor, f) -> Tensor:
        if self.config["pre_lnorm"]:
            return x + f(self._norm(norm, x))
        return self._norm(norm, x + f(x))

    def _norm(self, name: str, x: Tensor) -> Tensor:
        weight = self.params[name + ".weight"]
        if self.config["norm_type"] == "rmsnorm":
            return x / th.sqrt((x * x).mean() + 1e-8) * weight
        centred = x - x.mean()
        return centred / th.sqrt((centred * centred).mean() + 1e-8) * weight + self.params[name + ".bias"]

    def _self_attention(self, p: str, x: list[Tensor]) -> Tensor:
        d, heads = self.config["d_model"], self.config["n_head"]
        w_q, w_k, w_v = self.params[p + "qkv_net.weight"].split(d)
        size = d // heads
        u, w = self.params["r_w_bias"], self.params["r_r_bias"]
        i = len(x) - 1
        result = []
        for head in range(heads):
            block = slice(head * size, (head + 1) * size)
            q = (w_q @ x[i])[block]
            scores = []
            for j in range(i + 1):
                k = (w_k @ x[j])[block]
                r = (self.params[p + "r_net.weight"] @ self._sinusoid(i - j))[block]
                scores.append(((q + u[head]) @ k + (q + w[head]) @ r) / math.sqrt(size))
            weights = th.stack(scores).softmax(0)
            result.append(sum(weights[j] * (w_v @ x[j])[block] for j in range(i + 1)))
        return self.params[p + "o_net.weight"] @ th.cat(result)

    def _sinusoid(self, distance: int) -> Tensor:
        d = self.config["d_model"]
        angles = [distance * 10000 ** (-2 * k / d) for k in range(d // 2)]
        return th.tensor([math.sin(a) for a in angles] + [math.cos(a) for a in angles], dtype=th.float64)

    def _read(self, n: int, x: Tensor, time: int) -> Tensor:
        return self._cross(n, "cross_attention1", x, self.slots[n], [time - anchor for anchor in self.anchors])

    def _cross(self, n: int, name: str, x: Tensor, others: list[Tensor], distances: list[int]) -> Tensor:
        p, heads = f"layers.{n}.{name}.", self.config["n_head"]
        size, reach = self.config["d_model"] // heads, self.config["max_seq_len"]
        table = self.params[f"layers.{n}.cross_rel_bias.bias.weight"]
        result = []
        for head in range(heads):
            block = slice(head * size, (head + 1) * size)
            q = (self.params[p + "w_q.weight"] @ x)[block]
            scores = []
            for other, distance in zip(others, distances, strict=True):
                k = (self.params[p + "w_k.weight"] @ other)[block]
                row = min(max(distance, -reach + 1), reach - 1) + reach - 1
                scores.append(q @ k / math.sqrt(size) + table[row, head])
            weights = th.stack(scores).softmax(0)
            values = [(self.params[p + "w_v.weight"] @ other)[block] for other in others]
            result.append(sum(weight * value for weight, value in zip(weights, values, strict=True)))
        return self.params[p + "w_o.weight"] @ th.cat(result) + self.params[p + "w_o.bias"]

    def _ffn(self, p: str, x: Tensor, count: bool) -> Tensor:
        if not self.config["use_moe"]:
            return self._dense(p, x)
        probabilities = (self.params[p + "router.linear.weight"] @ x).softmax(0)
        chosen_count = max(1, self.config["top_k"] - self.config["n_shared_experts"])
        chosen = sorted(range(len(probabilities)), key=lambda e: -probabilities[e].item())[:chosen_count]
        if count:
            self.router_stats.setdefault(p, []).append((probabilities, chosen))
        total = sum(probabilities[e] for e in chosen)
        if self.config.get("router_gate", "renormalised") == "softmax":
            total = 1.0
        y = sum(probabilities[e] / total * self._swiglu(f"{p}experts.{e}.swiglu.", x) for e in chosen)
        for s in range(self.config["n_shared_experts"]):
            y = y + self._swiglu(f"{p}shared_experts.{s}.swiglu.", x)
        return y

    def _dense(self, p: str, x: Tensor) -> Tensor:
        if self.config["use_swiglu"]:
            return self._swiglu(p, x)
        a = self.params[p + "0.weight"] @ x + self.params[p + "0.bias"]
        a = 0.5 * a * (1 + th.erf(a / math.sqrt(2)))
        return self.params[p + "3.weight"] @ a + self.params[p + "3.bias"]

    def _swiglu(self, p: str, x: Tensor) -> Tensor:
        gate = self.params[p + "gate_proj.weight"] @ x
        return self.params[p + "down_proj.weight"] @ (gate * th.sigmoid(gate) * (self.params[p + "up_proj.weight"] @ x))


def elmur_arguments(config: dict) -> dict:
    """Arguments of ``ElmurConfig`` for a golden configuration."""
    ffn = "moe" if config["use_moe"] else "swiglu" if config["use_swiglu"] else "gelu"
    arguments = {
        "d_model": config["d_model"],
        "n_layers": config["n_layer"],
        "n_heads": config["n_head"],
        "segment_length": config["L"],
        "memory_size": config["memory_size"],
        "lru_blend": config["lru_blend_alpha"],
        "blend": config.get("blend", "fixed"),
        "max_distance": config["max_seq_len"],
        "norm_first": config["pre_lnorm"],
        "norm": {"layer": "layer", "rmsnorm": "rms"}[config["norm_type"]],
        "ffn": ffn,
        "d_ff": config["d_ff"],
        "router_gate": config.get("router_gate", "renormalised"),
    }
    if ffn == "moe":
        arguments |= {
            "n_routed_experts": config["num_experts"],
            "n_shared_experts": config["n_shared_experts"] if config.get("use_shared_expert", True) else 0,
            "top_k": config["top_k"],
            "routed_d_ff": config["routed_d_ff"],
            "shared_d_ff": config["shared_d_ff"],
        }
    return arguments


def to_state_dict(params: Params, config: dict) -> Params:
    """The package's parameter names and layouts for golden parameters (or for their gradients)."""
    state = {"content_bias": params["r_w_bias"], "distance_bias": params["r_r_bias"]}
    for n in range(config["n_layer"]):
        old, new = f"layers.{n}.", f"layers.{n}."
        state[new + "attention.qkv.weight"] = params[old + "self_attention.qkv_net.weight"]
        state[new + "attention.distance.weight"] = params[old + "self_attention.r_net.weight"]
        state[new + "attention.out.weight"] = params[old + "self_attention.o_net.weight"]
        state[new + "relative_bias"] = params[old + "cross_rel_bias.bias.weight"]
        for ours, theirs in (("read", "cross_attention1"), ("write", "cross_attention2")):
            weights = {w: params[f"{old}{theirs}.w_{w}.weight"] for w in "qkvo"}
            state[f"{new}{ours}.query.weight"] = weights["q"]
            state[f"{new}{ours}.key_value.weight"] = th.cat((weights["k"], weights["v"]))
            state[f"{new}{ours}.out.weight"] = weights["o"]
            state[f"{new}{ours}.out.bias"] = params[f"{old}{theirs}.w_o.bias"]
        for ours, theirs in (
            ("around_attention", "self_attention.layer_norm"),
            ("around_read", "token_norm_cross"),
            ("around_token_ffn", "token_ffn.layer_norm"),
            ("around_write", "memory_norm_cross"),
            ("around_memory_ffn", "memory_ffn.layer_norm"),
        ):
            for kind in ("weight", "bias"):
                if f"{old}{theirs}.{kind}" in params:
                    state[f"{new}{ours}.norm.{kind}"] = params[f"{old}{theirs}.{kind}"]
        state |= {name: p for name, p in params.items() if name.startswith(f"{old}blend.")}
        for ffn in ("token_ffn", "memory_ffn"):
            core = {k.removeprefix(f"{old}{ffn}.core_net."): v for k, v in params.items() if k.startswith(f"{old}{ffn}.core")}
            state |= {f"{new}{ffn}.{k}": v for k, v in _ffn_state(core, config).items()}
    return state


def _ffn_state(core: Params, config: dict) -> Params:
    if not config["use_moe"] and not config["use_swiglu"]:
        return {"up.weight": core["0.weight"], "up.bias": core["0.bias"],
                "down.weight": core["3.weight"], "down.bias": core["3.bias"]}  # fmt: skip
    if not config["use_moe"]:
        gate_up = th.cat((core["gate_proj.weight"], core["up_proj.weight"]))
        return {"gate_up.weight": gate_up, "down.weight": core["down_proj.weight"]}
    shared = range(config["n_shared_experts"] if config.get("use_shared_expert", True) else 0)
    experts = [f"shared_experts.{e}.swiglu." for e in shared]
    experts += [f"experts.{e}.swiglu." for e in range(config["num_experts"])]
    gate, up = (th.cat([core[e + w] for e in experts]) for w in ("gate_proj.weight", "up_proj.weight"))
    return {
        "router.weight": core["router.linear.weight"],
        "gate_up.weight": th.cat((gate, up)),
        "down.weight": th.cat([core[e + "down_proj.weight"] for e in experts], dim=1),
    }
