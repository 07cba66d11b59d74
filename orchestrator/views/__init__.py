"""What the API answers with: one model per shape, shared by the API and the Python client."""

from orchestrator.views.access import (
    KeyRequest,
    KeyView,
    NewKeyView,
    PrincipalView,
    TicketRequest,
    TicketView,
    TokenRequest,
    TokenView,
)
from orchestrator.views.artifacts import ArtifactView, CheckpointView
from orchestrator.views.errors import ErrorDetails, ErrorView
from orchestrator.views.estimates import EstimateView
from orchestrator.views.events import EventPage, EventView
from orchestrator.views.features import Feature, FeatureList
from orchestrator.views.gpus import GpuProcessView, GpuView
from orchestrator.views.health import Health, Liveness, Readiness
from orchestrator.views.inventory import Inventory, ModelView
from orchestrator.views.job_types import JobTypeView
from orchestrator.views.jobs import (
    AttemptView,
    CommandView,
    DifferenceView,
    FailureView,
    JobDetail,
    JobPage,
    JobView,
    ParameterChanges,
    WaitView,
    job_view_fields,
)
from orchestrator.views.logs import LogChunk, LogGap
from orchestrator.views.metrics import (
    MetricPoint,
    MetricSeries,
    MetricStats,
    ResourceHistory,
    ResourcePoint,
    ResourceStats,
    SeriesStats,
)
from orchestrator.views.owners import OwnerLimits, OwnerView
from orchestrator.views.pipelines import PipelinePage, PipelineView, StepView
from orchestrator.views.schedules import ScheduleChanges, SchedulePage, ScheduleView
from orchestrator.views.secrets import SecretRequest, SecretView
from orchestrator.views.submissions import CloneRequest, JobChanges, JobSubmission, TypedSubmission
from orchestrator.views.sweeps import (
    SweepActed,
    SweepChanges,
    SweepPage,
    SweepPoint,
    SweepResults,
    SweepSubmission,
    SweepView,
)
from orchestrator.views.system import (
    ActivationCacheView,
    EngineView,
    HistoryView,
    OrchestratorView,
    QueueView,
    SystemStatus,
    TraceView,
)
from orchestrator.views.trainings import TrainingDetail
from orchestrator.views.upkeep import BackupView, CleanupRequest, CleanupView, OrphanView
from orchestrator.views.webhooks import NewWebhookView, WebhookRequest, WebhookTryView, WebhookView

__all__ = [
    "ActivationCacheView",
    "ArtifactView",
    "AttemptView",
    "BackupView",
    "CheckpointView",
    "CleanupRequest",
    "CleanupView",
    "CloneRequest",
    "CommandView",
    "DifferenceView",
    "EngineView",
    "ErrorDetails",
    "ErrorView",
    "EstimateView",
    "EventPage",
    "EventView",
    "FailureView",
    "Feature",
    "FeatureList",
    "GpuProcessView",
    "GpuView",
    "Health",
    "HistoryView",
    "Inventory",
    "JobChanges",
    "JobDetail",
    "JobPage",
    "JobSubmission",
    "JobTypeView",
    "JobView",
    "KeyRequest",
    "KeyView",
    "Liveness",
    "LogChunk",
    "LogGap",
    "MetricPoint",
    "MetricSeries",
    "MetricStats",
    "ModelView",
    "NewKeyView",
    "NewWebhookView",
    "OrchestratorView",
    "OrphanView",
    "OwnerLimits",
    "OwnerView",
    "ParameterChanges",
    "PipelinePage",
    "PipelineView",
    "PrincipalView",
    "QueueView",
    "Readiness",
    "ResourceHistory",
    "ResourcePoint",
    "ResourceStats",
    "ScheduleChanges",
    "SchedulePage",
    "ScheduleView",
    "SecretRequest",
    "SecretView",
    "SeriesStats",
    "StepView",
    "SweepActed",
    "SweepChanges",
    "SweepPage",
    "SweepPoint",
    "SweepResults",
    "SweepSubmission",
    "SweepView",
    "SystemStatus",
    "TicketRequest",
    "TicketView",
    "TokenRequest",
    "TokenView",
    "TraceView",
    "TrainingDetail",
    "TypedSubmission",
    "WaitView",
    "WebhookRequest",
    "WebhookTryView",
    "WebhookView",
    "job_view_fields",
]
