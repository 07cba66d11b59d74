"""One of the autoencoders that a run trains, and its share of every batch.

Shapes: B tokens, N tokens, D = d_in, E = width_out, W = width of all hookpoints side by side.
"""

from dataclasses import dataclass

from torch import Tensor

from worker_image.sae.calibration import calibrate
from worker_image.sae.evaluation import Evaluation, evaluate
from worker_image.sae.trainer import StepOutcome, Trainer


@dataclass
class Learner:
    """An autoencoder in training."""

    label: str
    """What tells it from the others of the run; empty when it is the only one."""
    trainer: Trainer
    encoded: slice
    """Columns of W that it reads."""
    predicted: slice
    """Columns of W that it reconstructs or predicts."""

    @property
    def is_transcoder(self) -> bool:
        return self.trainer.config.is_transcoder

    def centre(self, sample_NW: Tensor) -> None:
        """Start the biases where a sample of activations lies."""
        self.trainer.sae.centre(sample_NW[:, self.encoded], sample_NW[:, self.predicted])

    def train_step(self, batch_BW: Tensor, *, measure: bool) -> StepOutcome:
        """Learn from a batch that is on the device."""
        return self.trainer.train_step(*self._split(batch_BW), measure=measure)

    def rehearse(self, batch_BW: Tensor) -> None:
        """Take the time of a step without taking it.

        Raises:
            torch.cuda.OutOfMemoryError: beside what else there is not even an eighth of the batch fits.
        """
        self.trainer.rehearse(*self._split(batch_BW))

    def evaluate(self, held_out_NW: Tensor, batch_tokens: int) -> Evaluation:
        """Measure on tokens that were not trained on."""
        x_ND, y_NE = held_out_NW[:, self.encoded], held_out_NW[:, self.predicted]
        at_once = self.trainer.micro_batch_size
        weights = self.trainer.coefficients
        return evaluate(self.trainer.sae, x_ND, batch_tokens, y_NE, weights=weights, at_once=at_once)

    def evaluate_deployed(self, held_out_NW: Tensor, batch_tokens: int) -> Evaluation:
        """Measure as it is used after training: a threshold that takes the batch's place is calibrated first."""
        x_ND, y_NE = held_out_NW[:, self.encoded], held_out_NW[:, self.predicted]
        at_once = self.trainer.micro_batch_size
        calibrate(self.trainer.sae, x_ND, batch_tokens, at_once)
        return evaluate(self.trainer.sae, x_ND, batch_tokens, y_NE, deployed=True, at_once=at_once)

    def _split(self, batch_BW: Tensor) -> tuple[Tensor, Tensor]:
        x_BD = batch_BW[:, self.encoded].contiguous()
        return x_BD, batch_BW[:, self.predicted].contiguous() if self.is_transcoder else x_BD
