"""The simulator."""

from llmshield.simulator.answer import Scripted
from llmshield.simulator.app import Simulator, SimulatorThread, run
from llmshield.simulator.record import Received

__all__ = ["Received", "Scripted", "Simulator", "SimulatorThread", "run"]
