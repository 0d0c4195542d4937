"""The few GraphQL calls by which the demo does what a person does in Dagster's UI."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

TIMEOUT_S = 60.0

_LOCATION = """
query { workspaceOrError { ... on Workspace { locationEntries {
  name
  locationOrLoadError {
    ... on RepositoryLocation { repositories { name } }
    ... on PythonError { message }
  } } } } }
"""
_LAUNCH = """
mutation ($params: ExecutionParams!) { launchPipelineExecution(executionParams: $params) {
  __typename
  ... on LaunchRunSuccess { run { runId } }
  ... on PythonError { message }
  ... on RunConfigValidationInvalid { errors { message } }
} }
"""
_STATUS = "query ($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"


class GraphQLFailed(Exception):
    """Dagster's webserver refused; the message is its own."""


class DagsterWeb:
    """A client of Dagster's webserver at a URL."""

    def __init__(self, url: str) -> None:
        self.url = url

    def query(self, text: str, **variables: Any) -> dict[str, Any]:
        """Sends one query or mutation and returns its data. Raises GraphQLFailed."""
        body = json.dumps({"query": text, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", data=body, headers={"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            reply: dict[str, Any] = json.load(answer)
        if reply.get("errors"):
            raise GraphQLFailed(reply["errors"][0]["message"])
        data: dict[str, Any] = reply["data"]
        return data

    def location(self) -> tuple[str, str]:
        """Name of the one code location and of its repository. Raises GraphQLFailed when it did not load."""
        (entry,) = self.query(_LOCATION)["workspaceOrError"]["locationEntries"]
        loaded = entry["locationOrLoadError"]
        if "message" in loaded:
            raise GraphQLFailed(f"The definitions do not load: {loaded['message']}")
        return entry["name"], loaded["repositories"][0]["name"]

    def launch_job(self, job: str) -> str:
        """Launches a job as the UI's button does and returns the run id. Raises GraphQLFailed."""
        location, repository = self.location()
        selector = {
            "repositoryLocationName": location,
            "repositoryName": repository,
            "pipelineName": job,
        }
        params = {"selector": selector, "runConfigData": {}, "mode": "default"}
        reply = self.query(_LAUNCH, params=params)["launchPipelineExecution"]
        if reply["__typename"] != "LaunchRunSuccess":
            raise GraphQLFailed(f"Job {job} was not launched ({reply['__typename']}): {reply.get('message') or reply}")
        return str(reply["run"]["runId"])

    def run_status(self, run_id: str) -> str:
        """Status of a run, such as STARTED or SUCCESS."""
        return str(self.query(_STATUS, id=run_id)["runOrError"]["status"])
