"""Floor 3: the way in, from a door's bytes to a synced segment."""

from otlp_arrow.pipeline.flow import Pipeline, PipelineSettings
from otlp_arrow.pipeline.intake import Ack, Intake

__all__ = ["Ack", "Intake", "Pipeline", "PipelineSettings"]
