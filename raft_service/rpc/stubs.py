"""The generated gRPC stubs, which carry no types, under one name each: calls through them give Any."""

from __future__ import annotations

from typing import Any

from orchestrator_proto import admin_pb2_grpc, task_pb2_grpc, worker_pb2_grpc

TaskServiceStub: Any = task_pb2_grpc.TaskServiceStub
WorkerServiceStub: Any = worker_pb2_grpc.WorkerServiceStub
AdminServiceStub: Any = admin_pb2_grpc.AdminServiceStub

add_task_service: Any = task_pb2_grpc.add_TaskServiceServicer_to_server
add_worker_service: Any = worker_pb2_grpc.add_WorkerServiceServicer_to_server
add_admin_service: Any = admin_pb2_grpc.add_AdminServiceServicer_to_server
