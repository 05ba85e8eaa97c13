"""Tasks declared in YAML: documents of the Open Workflow DSL, and state machines.

``Tasks`` stores documents and runs their instances, ``app`` offers both over HTTP, and
``python -m flowstate.engines.tasks serve FOLDER`` is all of it as a program. It needs the extra
``flowstate-engine[tasks]``.
"""

try:
    import cronsim  # noqa: F401
    import httpx  # noqa: F401
    import jsonschema  # noqa: F401
    import starlette  # noqa: F401
    import uvicorn  # noqa: F401
    import yaml  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"tasks need {error.name}: pip install 'flowstate-engine[tasks]'", name=error.name
    ) from error

from flowstate.engines.events.cloud_event import CloudEvent
from flowstate.engines.kernel.errors import InstanceCancelledError as TasksCancelled
from flowstate.engines.tasks.calls.databases import Database
from flowstate.engines.tasks.calls.functions import typed
from flowstate.engines.tasks.calls.outgoing import Outgoing
from flowstate.engines.tasks.calls.programs import Processes
from flowstate.engines.tasks.calls.secrets import EnvironmentSecrets, FileSecrets, MappedSecrets
from flowstate.engines.tasks.documents.document import Document
from flowstate.engines.tasks.errors import DocumentError, Problem, TaskError
from flowstate.engines.tasks.runtime import Call
from flowstate.engines.tasks.service.app import app
from flowstate.engines.tasks.service.instances import Details, Listing, Moment, Summary, Wanted
from flowstate.engines.tasks.service.retention import Keep
from flowstate.engines.tasks.service.tasks import Tasks

__all__ = [
    "Call",
    "CloudEvent",
    "Database",
    "Details",
    "Document",
    "DocumentError",
    "EnvironmentSecrets",
    "FileSecrets",
    "Keep",
    "Listing",
    "MappedSecrets",
    "Moment",
    "Outgoing",
    "Problem",
    "Processes",
    "Summary",
    "TaskError",
    "Tasks",
    "TasksCancelled",
    "Wanted",
    "app",
    "typed",
]
