"""What every scripted expert is: a map from what was observed and done to the next action."""

from abc import ABC, abstractmethod
from typing import Any


class Expert(ABC):
    """
    A scripted expert of one POPGym task.

    It knows the task's constants and sees observations and executed actions, never the environment's hidden state. The
    executed actions may be others than its own.
    """

    def observe(self, observation: Any, action: Any) -> None:
        """
        Take in one step of an episode; an episode's last observation may be left out.

        :param observation: As the environment without wrappers gives it.
        :param action: The action that led to it; None at an episode's start, where the expert forgets everything.
        """
        if action is None:
            self._start(observation)
        else:
            self._update(observation, action)

    @abstractmethod
    def act(self) -> Any:
        """
        Choose the next action; asking again gives the same.

        :return: An element of the environment's action space.
        """

    @abstractmethod
    def _start(self, observation: Any) -> None:
        """Begin an episode with its first observation."""

    @abstractmethod
    def _update(self, observation: Any, action: Any) -> None:
        """Take in a later observation and the action that led to it."""
