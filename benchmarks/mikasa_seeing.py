"""
An extractor for things that no colour tells apart: it learns what to do for every answer, and which one the cue means.

Demonstrations for every answer (``mikasa_demonstrations.py``) say what the scripted expert would have done in each step, had
the cue been another one. A network that sees one step cannot know the answer, but it can say the actions for all of them, for
which it must see where each thing is. ``mikasa_rgb.py`` trains it so, freezes it, and clones ELMUR on what it says.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch as th
from common import write_file
from gymnasium import spaces
from mikasa_demonstrations import CHOICE
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import TensorDict
from torch import Tensor, nn

from sb3_elmur.datasets.episodes import Episodes
from sb3_elmur.encoders import FourLayerCNN

EPOCHS, BATCH_SIZE, CUES = 14, 128, 32  # epochs of the steps from the choice on; steps of a batch; images of cues beside them
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 1e-2
CUE_WEIGHT = 0.1  # of the cross-entropy, beside the squared error of actions
SETTINGS = {
    "epochs": EPOCHS,
    "batch_size": BATCH_SIZE,
    "cues": CUES,
    "learning_rate": LEARNING_RATE,
    "weight_decay": WEIGHT_DECAY,
    "cue_weight": CUE_WEIGHT,
}
N_ACTIONS = 8


class AnswersExtractor(BaseFeaturesExtractor):
    """
    How likely the image shows each answer's cue, the actions for each answer, and the joints.

    :param observation_space: Dict of the images ``rgb`` (C, H, W) and of ``joints``.
    :param n_answers: How many (k).
    :param width: Of the hidden layers.
    """

    def __init__(self, observation_space: spaces.Dict, n_answers: int, width: int = 256) -> None:
        n_joints = spaces.flatdim(observation_space["joints"])
        super().__init__(observation_space, n_answers * (1 + N_ACTIONS) + n_joints)
        self.cnn = FourLayerCNN(observation_space["rgb"], width)
        self.cue = nn.Linear(width, n_answers)
        self.actions = nn.Sequential(nn.Linear(width + n_joints, width), nn.ReLU(), nn.Linear(width, n_answers * N_ACTIONS))

    def forward(self, observations: TensorDict) -> Tensor:
        """
        Compute features.

        :param observations: By key, each (B, ...); images already divided by 255.
        :return: (B, 9 k + joints).
        """
        seen, joints = self.cnn(observations["rgb"]), observations["joints"]
        return th.cat((self.cue(seen).softmax(1), self.actions(th.cat((seen, joints), 1)), joints), dim=1)


def learn_answers(
    extractor: AnswersExtractor, motions: Episodes, answers: Sequence[dict[str, np.ndarray]], seed: int, path: Path
) -> None:
    """
    Train an extractor, and freeze it.

    :param extractor: It.
    :param motions: Recorded and normalised, all of the same length.
    :param answers: What ``film_answers`` made of each.
    :param seed: Shuffles.
    :param path: Where its weights go; they are taken from there if it exists.
    """
    if path.exists():
        extractor.load_state_dict(th.load(path, weights_only=True))
    else:
        train_answers(extractor, motions, answers, np.random.default_rng(seed))
        write_file(path, partial(th.save, extractor.state_dict()))
    extractor.requires_grad_(False)


def train_answers(
    extractor: AnswersExtractor, motions: Episodes, answers: Sequence[dict[str, np.ndarray]], rng: np.random.Generator
) -> None:
    """See :func:`learn_answers`."""
    observed = [motions[index].observations for index in range(len(motions))]
    images, joints = (np.concatenate([episode[key][CHOICE:] for episode in observed]) for key in ("rgb", "joints"))
    actions = np.concatenate([answer["action"][:, CHOICE:].swapaxes(0, 1) for answer in answers])  # (steps, k, 8)
    cues = np.stack([answer["rgb"] for answer in answers])  # (motions, k, 5, H, W, C)
    n_batches = len(images) // BATCH_SIZE
    optimizer = th.optim.AdamW(extractor.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = th.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=EPOCHS * n_batches)
    for epoch in range(EPOCHS):
        losses = []
        for steps in rng.permutation(len(images))[: n_batches * BATCH_SIZE].reshape(n_batches, -1):
            index = tuple(rng.integers(cues.shape[:3], size=(CUES, 3)).T)
            seen = extractor.cnn(as_images(np.concatenate((images[steps], cues[index]))))
            said = extractor.actions(th.cat((seen[:BATCH_SIZE], th.as_tensor(joints[steps])), 1))
            error = (said - th.as_tensor(actions[steps]).flatten(1)).square().mean()
            told = nn.functional.cross_entropy(extractor.cue(seen[BATCH_SIZE:]), th.as_tensor(index[1]))
            optimizer.zero_grad()
            (error + CUE_WEIGHT * told).backward()
            optimizer.step()
            schedule.step()
            losses.append((error.item(), told.item()))
        print(
            "seeing, epoch {}: squared error {:.4f}, cross-entropy {:.4f}".format(epoch, *np.mean(losses, axis=0)), flush=True
        )


def as_images(pictures: np.ndarray) -> Tensor:
    """Images (B, H, W, C) of uint8 as an extractor gets them."""
    return th.as_tensor(pictures).permute(0, 3, 1, 2).float() / 255
