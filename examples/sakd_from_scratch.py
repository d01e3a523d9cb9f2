"""Spot-adaptive knowledge distillation (SAKD) in plain PyTorch, all of it: ``python examples/sakd_from_scratch.py``.

Song, Chen, Ye, Song, "Spot-adaptive Knowledge Distillation", IEEE TIP 2022, doi 10.1109/TIP.2022.3170728.

At every spot i (K feature maps, then the logits) a policy selects the samples b that the teacher teaches: a[b, i] = 1.
It learns from a graft of both networks, in which these continue from the teacher's feature, others from the student's.

    student: CE(z_s, y) + KL(z_t || z_s where a = 1) + beta * distiller(f_s, f_t where a = 1)
    policy:  c * CE(z_graft, y) + max(0, B / 2 - sum_b a[b, logits])
"""

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Network = nn.Sequential  # of stages: feature maps (B, C, H, W), then the embedding (B, D), then the logits (B, classes)
Distiller = Callable[[Tensor, Tensor, Tensor], Tensor]  # loss of the student's feature, the teacher's and a mask (B,)


def kd_loss(student: Tensor, teacher: Tensor, mask: Tensor, tau: float = 4.0) -> Tensor:
    """KD, arXiv:1503.02531: tau^2 / B * sum_b m_b KL(softmax(z_t / tau) || softmax(z_s / tau))."""
    kl = F.kl_div(F.log_softmax(student / tau, 1), F.log_softmax(teacher / tau, 1), reduction="none", log_target=True)
    return (tau**2 * kl.sum(1) * mask).mean()


def at_loss(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """AT, arXiv:1612.03928: 1 / B * sum_b m_b ||A_s - A_t||^2 / HW, with A = mean_c f_c^2 scaled to length 1."""
    attention_s, attention_t = (unit_rows(f.square().mean(1).flatten(1)) for f in (student, teacher))
    return ((attention_s - attention_t).square().mean(1) * mask).mean()


def sp_loss(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """SP, arXiv:1907.09682: ||G_t - G_s||^2 / (n B) over the n selected samples, with G = rows of F F^T at length 1."""
    pairs = mask[:, None] * mask[None, :]  # 1 where both samples are selected
    gram_s, gram_t = (unit_rows(pairs * (f.flatten(1) @ f.flatten(1).T)) for f in (student, teacher))
    return (gram_t - gram_s).square().sum() / (mask.sum().clamp(min=1) * len(mask))


def unit_rows(x: Tensor) -> Tensor:
    """Rows scaled to length 1. Rows of zeros stay so, without the gradient times 1e12 that F.normalize gives them."""
    square = x.square().sum(1, keepdim=True)
    nonzero = square > 1e-12**2
    return torch.where(nonzero, x / torch.where(nonzero, square, 1.0).sqrt(), 0.0)


def features(network: Network, x: Tensor) -> list[Tensor]:
    """The outputs of all stages."""
    outputs = [x]
    for stage in network:
        outputs.append(stage(outputs[-1]))
    return outputs[1:]


def mix(a: Tensor, if_teacher: Tensor, if_student: Tensor) -> Tensor:
    """a * if_teacher + (1 - a) * if_student, with one decision per sample."""
    a = a.view(-1, *[1] * (if_teacher.dim() - 1))
    return a * if_teacher + (1 - a) * if_student


def adapter(channels_in: int, channels_out: int) -> nn.Sequential:
    """From one network's feature maps to the other's, which are of the same height and width."""
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 1), nn.BatchNorm2d(channels_out), nn.ReLU())


class Router(nn.Module):
    """The policy and the graft of two networks with equally many stages. A spot is the index of a stage in both."""

    def __init__(self, teacher: Network, student: Network, x: Tensor, spots: list[int]) -> None:
        super().__init__()
        self.spots = spots
        dim_t, dim_s = ([f.shape[1] for f in features(network.eval(), x)] for network in (teacher, student))
        self.hints = nn.ModuleList(adapter(dim_s[k], dim_t[k]) for k in spots)  # the student's feature as the teacher's
        self.antihints = nn.ModuleList(adapter(dim_t[k], dim_s[k]) for k in spots)  # the teacher's as the student's
        self.policy = nn.Linear(dim_t[-2] + dim_s[-2], 2 * (len(spots) + 1))  # paper: bias[::2] += 10 within a family

    def decide(self, embeddings: Tensor, tau: float = 5.0) -> Tensor:
        """Decisions (B, K + 1) by straight-through Gumbel-softmax: a = 1 with probability sigmoid(l_0 - l_1)."""
        logits = self.policy(embeddings).view(len(embeddings), -1, 2)
        gumbel = -torch.log(-torch.log(torch.rand_like(logits) + 1e-20) + 1e-20)
        soft = torch.softmax((logits + gumbel) / tau, dim=-1)[..., 0]
        return (soft > 0.5).to(soft.dtype) + (soft - soft.detach())  # the value is 0 or 1, the gradient that of soft

    def graft(self, teacher: Network, student: Network, x: Tensor, a: Tensor) -> Tensor:
        """Logits, after every spot both networks continue from the feature that was decided for."""
        f_t = f_s = x
        for k, (stage_t, stage_s) in enumerate(zip(teacher, student, strict=True)):
            f_t, f_s = stage_t(f_t), stage_s(f_s)
            if k in self.spots:
                i = self.spots.index(k)
                f_t, f_s = mix(a[:, i], f_t, self.hints[i](f_s)), mix(a[:, i], self.antihints[i](f_t), f_s)
        return mix(a[:, -1], f_t, f_s)

    def losses(
        self, teacher: Network, student: Network, x: Tensor, y: Tensor, distiller: Distiller, beta: float, gamma: float
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The terms of one step (paper: beta 1000 for AT, 3000 for SP) and the mask (B, K + 1), 1 where distilled."""
        f_t = features(teacher.eval().requires_grad_(False), x)  # a constant
        f_s = features(student.train(), x)
        a = self.decide(torch.cat([f_t[-2], f_s[-2].detach()], dim=1))
        mask = a.detach()  # the student's losses do not train the policy

        task = F.cross_entropy(f_s[-1], y)
        kl = kd_loss(f_s[-1], f_t[-1], mask[:, -1])
        distill = torch.stack([distiller(f_s[k], f_t[k], mask[:, i]) for i, k in enumerate(self.spots)]).sum()

        # The graft takes the student as a constant, with running statistics: its loss trains only policy and adapters.
        frozen_student = copy.deepcopy(student).eval().requires_grad_(False)
        routed = F.cross_entropy(self.graft(teacher, frozen_student, x, a), y)
        c = gamma if routed > task else 1 / gamma if routed < task else 1.0  # worse than the student: counts more
        balance = F.relu(len(x) / 2 - a[:, -1].sum())  # at least half of the batch is distilled at the logits
        return {"task": task, "kl": kl, "distill": beta * distill, "route": c * routed, "balance": balance}, mask


def make_optimizer(student: Network, router: Router, lr: float = 0.05) -> torch.optim.SGD:
    """One optimizer with two parameter groups and the paper's constants."""
    student_side = {"params": student.parameters(), "lr": lr, "weight_decay": 5e-4}
    policy_side = {"params": router.parameters(), "lr": lr / 2, "weight_decay": 1e-3}
    return torch.optim.SGD([student_side, policy_side], momentum=0.9)


def network(w: int) -> Network:
    """Four stages of maps, the embedding, and a classifier of ten classes; any such chain of stages can be used."""
    plan = ((3, w, 1), (w, w, 1), (w, 2 * w, 2), (2 * w, 4 * w, 2))  # channels in, channels out, stride
    maps = [nn.Sequential(nn.Conv2d(i, o, 3, s, 1), nn.BatchNorm2d(o), nn.ReLU()) for i, o, s in plan]
    return nn.Sequential(*maps, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(4 * w, 10))


if __name__ == "__main__":  # a teacher learns ten classes of noisy images, then it is distilled into a smaller student
    torch.manual_seed(0)
    y = torch.arange(50) % 10
    x = torch.randn(10, 3, 8, 8)[y] + 0.5 * torch.randn(50, 3, 8, 8)
    teacher, student = network(8), network(4)
    optimizer = torch.optim.SGD(teacher.parameters(), lr=0.05, momentum=0.9)
    for _ in range(20):
        optimizer.zero_grad()
        F.cross_entropy(teacher(x), y).backward()
        optimizer.step()

    router = Router(teacher, student, x, spots=[1, 2, 3])
    optimizer = make_optimizer(student, router)
    for step in range(1, 21):
        losses, mask = router.losses(teacher, student, x, y, at_loss, beta=100.0, gamma=2.0)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()  # no trained tensor is in both sums: one pass serves both
        optimizer.step()
        shares = dict(zip(["share at 1", "share at 2", "share at 3", "share at logits"], mask.mean(0), strict=True))
        print(f"step {step}", *(f"{name} {value.item():.2f}" for name, value in (losses | shares).items()), sep="  ")
