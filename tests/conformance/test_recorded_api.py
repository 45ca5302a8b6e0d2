"""What AWS was recorded to answer about events, concurrency, versions, aliases and mappings; each case by its id."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.api.asking import PYTHON, zipped
from tests.api.server import ACCOUNT, REGION, Server
from tests.conformance.api_cases import (
    AREAS,
    Ground,
    cases,
    replay,
    replays,
    settle,
)

# --------------------------------------------------------------------------- 01, 02: calls


@replays("TestLambdaBaseFeatures::test_function_state")
def state(on: Ground, _: str) -> None:
    on.create("create-fn-response")
    on.step("get-fn-response", "get_function", FunctionName=on.name())


@replays("TestLambdaFeatures::test_invocation_type_event", "TestLambdaFeatures::test_invocation_type_no_return_payload")
def event(on: Ground, _: str) -> None:
    on.create()
    on.step("invoke-result", "invoke", FunctionName=on.name(), InvocationType="Event", Payload=b"{}")


@replays("TestLambdaFeatures::test_invoke_exceptions")
def no_function_to_call(on: Ground, _: str) -> None:
    on.step("invoke_function_doesnotexist", "invoke", FunctionName="doesnotexist")


# --------------------------------------------------------------------------- 03: event invoke configurations


@replays("TestLambdaEventInvokeConfig::test_lambda_eventinvokeconfig_exceptions")
def event_invoke(on: Ground, _: str) -> None:
    name, other = on.name(), on.name("-other")
    on.create("", Environment={"Variables": {}}, Timeout=30)
    on.create("", name=other, Timeout=30)
    on.step("fn_version_result", "publish_version", FunctionName=name)
    on.step("fn_alias_result", "create_alias", FunctionName=name, Name="eventinvokealias", FunctionVersion="1")
    alias = "eventinvokealias"

    def put(step: str, name: str = name, **params: Any) -> None:
        on.step(step, "put_function_event_invoke_config", FunctionName=name, **params)

    def target(arn: str) -> dict[str, Any]:
        return {"OnSuccess": {"Destination": arn}}

    put("put_functionname_name_notfound", "doesnotexist", MaximumRetryAttempts=1)
    put("put_functionname_arn_notfound", on.arn(name="doesnotexist"), MaximumRetryAttempts=1)
    put("put_functionname_nootherargs")
    put("put_destination_lambda_doesntexist", DestinationConfig=target(on.arn(name="doesnotexist")))
    put("put_destination_recursive", DestinationConfig=target(on.arn()))
    put("put_destination_other_lambda", DestinationConfig=target(on.arn(name=other)))
    put("put_destination_invalid_service_arn", DestinationConfig=target(on.arn().replace(":lambda:", ":iam:")))
    put("put_destination_success_no_destination_arn", DestinationConfig={"OnSuccess": {}})
    put("put_destination_failure_no_destination_arn", DestinationConfig={"OnFailure": {}})
    broken = on.arn().replace(":lambda:", ":_-/!lambda:")
    put("put_destination_invalid_arn_pattern", DestinationConfig={"OnFailure": {"Destination": broken}})
    put("put_destination_latest", MaximumRetryAttempts=1)
    put("put_destination_latest_explicit_qualifier", Qualifier="$LATEST", MaximumRetryAttempts=1)
    put("put_destination_version", Qualifier="1", MaximumRetryAttempts=1)
    put("put_alias_functionname_qualifier", Qualifier=alias, MaximumRetryAttempts=1)
    put("put_alias_doesnotexist", Qualifier="doesnotexist", MaximumRetryAttempts=1)
    put("put_alias_qualifiedarn", on.arn(alias), MaximumRetryAttempts=1)
    put("put_alias_qualifiedarn_qualifier", on.arn(alias), Qualifier=alias, MaximumRetryAttempts=1)
    put("put_alias_qualifiedarn_qualifierconflict", on.arn(alias), Qualifier="doesnotexist", MaximumRetryAttempts=1)
    put("put_alias_shorthand", f"{name}:{alias}", MaximumRetryAttempts=1)
    put("put_alias_shorthand_qualifier", f"{name}:{alias}", Qualifier=alias, MaximumRetryAttempts=1)
    put("put_alias_shorthand_qualifierconflict", f"{name}:{alias}", Qualifier="doesnotexist", MaximumRetryAttempts=1)
    put("put_version_shorthand", f"{name}:1", MaximumRetryAttempts=1)
    put("put_shorthand_qualifier_match", f"{name}:$LATEST", Qualifier="$LATEST", MaximumRetryAttempts=1)
    put("put_shorthand_qualifier_mismatch_1", f"{name}:$LATEST", Qualifier="1", MaximumRetryAttempts=1)
    put("put_shorthand_qualifier_mismatch_2", f"{name}:1", Qualifier="$LATEST", MaximumRetryAttempts=1)
    put("put_shorthand_qualifier_mismatch_3", f"{name}:1", Qualifier="2", MaximumRetryAttempts=1)
    put("put_maxevent_maxvalue_result", MaximumRetryAttempts=2, MaximumEventAgeInSeconds=21600)
    put("put_pre_overwrite", MaximumRetryAttempts=2, MaximumEventAgeInSeconds=60)
    put("put_post_overwrite", MaximumRetryAttempts=0)
    put("second_overwrite_existing_response", MaximumRetryAttempts=0)
    on.step("get_post_overwrite", "get_function_event_invoke_config", FunctionName=name)
    put("pre_update_response", MaximumRetryAttempts=2, MaximumEventAgeInSeconds=60)
    on.step("update_response", "update_function_event_invoke_config", FunctionName=name, MaximumRetryAttempts=0)
    on.step(
        "update_response_existing", "update_function_event_invoke_config", FunctionName=name, MaximumRetryAttempts=0
    )
    on.step("list_configs", "list_function_event_invoke_configs", FunctionName=name)
    delete = "delete_function_event_invoke_config"
    on.step("delete_latest", delete, FunctionName=name)
    on.step("delete_version", delete, FunctionName=name, Qualifier="1")
    on.step("delete_alias", delete, FunctionName=name, Qualifier=alias)
    on.step("list_configs_postdelete", "list_function_event_invoke_configs", FunctionName=name)
    on.step("delete_function_not_found", delete, FunctionName=name)
    on.step("delete_function_doesnotexist", delete, FunctionName="doesnotexist")
    on.step("list_function_doesnotexist", "list_function_event_invoke_configs", FunctionName="doesnotexist")
    get = "get_function_event_invoke_config"
    on.step("get_function_doesnotexist", get, FunctionName="doesnotexist")
    on.step("get_qualifier_doesnotexist", get, FunctionName=name, Qualifier="doesnotexist")
    update = "update_function_event_invoke_config"
    on.step(
        "update_eventinvokeconfig_function_doesnotexist", update, FunctionName="doesnotexist", MaximumRetryAttempts=0
    )
    on.step("get_eventinvokeconfig_doesnotexist", get, FunctionName=name, Qualifier=alias)
    on.step(
        "update_eventinvokeconfig_config_doesnotexist_with_qualifier",
        update, FunctionName=name, Qualifier=alias, MaximumRetryAttempts=0,
    )  # fmt: skip
    on.step(
        "update_eventinvokeconfig_config_doesnotexist_without_qualifier",
        update, FunctionName=name, MaximumRetryAttempts=0,
    )  # fmt: skip


# --------------------------------------------------------------------------- 04: concurrency


@replays("TestLambdaConcurrency::test_lambda_concurrency_crud", "TestLambdaConcurrency::test_lambda_concurrency_update")
def reserved(on: Ground, _: str) -> None:
    name = on.name()
    amount = on.case["put_function_concurrency"]["ReservedConcurrentExecutions"]
    on.create("", Environment={"Variables": {}}, Timeout=30)
    on.step("get_function_concurrency_default", "get_function_concurrency", FunctionName=name)
    on.step(
        "put_function_concurrency", "put_function_concurrency", FunctionName=name, ReservedConcurrentExecutions=amount
    )
    on.step("get_function_concurrency_updated", "get_function_concurrency", FunctionName=name)
    on.step("get_function_concurrency_info", "get_function", FunctionName=name)
    on.call("delete_function_concurrency", FunctionName=name)
    on.step("get_function_concurrency_deleted", "get_function_concurrency", FunctionName=name)


@replays("TestLambdaReservedConcurrency::test_function_concurrency")
def reserved_steps(on: Ground, _: str) -> None:
    name = on.name()
    on.create()
    put = "put_function_concurrency"
    on.step(f"{put}_with_reserved_0", put, FunctionName=name, ReservedConcurrentExecutions=0)
    on.step(f"{put}_with_reserved_1", put, FunctionName=name, ReservedConcurrentExecutions=1)
    on.step("get_function_concurrency", "get_function_concurrency", FunctionName=name)
    on.step("delete_response", "delete_function_concurrency", FunctionName=name)
    on.step("get_function_concurrency_after_delete", "get_function_concurrency", FunctionName=name)


@replays("TestLambdaReservedConcurrency::test_function_concurrency_limits")
def reserved_limits(on: Ground, _: str) -> None:
    name, put = on.name(), "put_function_concurrency"
    on.create()
    free = on.call("get_account_settings")["AccountLimit"]["UnreservedConcurrentExecutions"]
    on.step(f"{put}_account_limit_exceeded", put, FunctionName=name, ReservedConcurrentExecutions=free + 1)
    on.step(f"{put}_below_unreserved_min_value", put, FunctionName=name, ReservedConcurrentExecutions=free - 10)


@replays("TestLambdaProvisionedConcurrency::test_provisioned_concurrency_limits")
def provisioned_limits(on: Ground, _: str) -> None:
    name, put = on.name(), "put_provisioned_concurrency_config"
    on.create()
    on.call("publish_version", FunctionName=name)
    free = on.call("get_account_settings")["AccountLimit"]["UnreservedConcurrentExecutions"]
    for step, amount in (("account_limit_exceeded", free + 1), ("below_unreserved_min_value", free - 10)):
        on.step(
            f"put_provisioned_concurrency_{step}",
            put, FunctionName=name, Qualifier="1", ProvisionedConcurrentExecutions=amount,
        )  # fmt: skip


@replays("TestLambdaConcurrency::test_provisioned_concurrency")
def provisioned(on: Ground, _: str) -> None:
    name = on.name()
    on.create(Runtime=PYTHON)  # one that is here: what is shown is what is there
    on.call("publish_version", FunctionName=name)
    get = {"FunctionName": name, "Qualifier": "1"}
    on.step("put_provisioned_5", "put_provisioned_concurrency_config", ProvisionedConcurrentExecutions=5, **get)
    on.step("get_provisioned_prewait", "get_provisioned_concurrency_config", **get)
    settle()
    while on.call("get_provisioned_concurrency_config", **get)["Status"] == "IN_PROGRESS":
        pass
    on.step("get_provisioned_postwait", "get_provisioned_concurrency_config", **get)


@replays("TestLambdaProvisionedConcurrency::test_provisioned_concurrency_exceptions")
def provisioned_refusals(on: Ground, _: str) -> None:
    name = on.name()
    on.create("", Environment={"Variables": {}}, Timeout=30)
    on.step("publish_version_result", "publish_version", FunctionName=name)
    get, put, delete = (f"{verb}_provisioned_concurrency_config" for verb in ("get", "put", "delete"))
    on.step("get_provisioned_config_doesnotexist", get, FunctionName=name, Qualifier="1")
    on.step("get_provisioned_functionname_doesnotexist", get, FunctionName="doesnotexist", Qualifier="noalias")
    on.step("get_provisioned_qualifier_doesnotexist", get, FunctionName=name, Qualifier="noalias")
    on.step("get_provisioned_version_doesnotexist", get, FunctionName=name, Qualifier="10")
    on.step("get_provisioned_latest", get, FunctionName=name, Qualifier="$LATEST")
    on.step("list_provisioned_noconfigs", "list_provisioned_concurrency_configs", FunctionName=name)
    on.step(
        "list_provisioned_functionname_doesnotexist",
        "list_provisioned_concurrency_configs",
        FunctionName="doesnotexist",
    )
    on.step("delete_provisioned_functionname_doesnotexist", delete, FunctionName="doesnotexist", Qualifier="1")
    on.step("delete_provisioned_qualifier_doesnotexist", delete, FunctionName=name, Qualifier="noalias")
    on.step("delete_provisioned_version_doesnotexist", delete, FunctionName=name, Qualifier="10")
    on.step("delete_provisioned_latest", delete, FunctionName=name, Qualifier="$LATEST")
    on.step("delete_provisioned_config_doesnotexist", delete, FunctionName=name, Qualifier="1")

    def wanted(step: str, name: str, qualifier: str, amount: int = 1) -> None:
        on.step(step, put, FunctionName=name, Qualifier=qualifier, ProvisionedConcurrentExecutions=amount)

    wanted("put_provisioned_invalid_param_0", name, "1", 0)
    wanted("put_provisioned_functionname_doesnotexist_alias", "doesnotexist", "noalias")
    wanted("put_provisioned_functionname_doesnotexist_version", "doesnotexist", "1")
    wanted("put_provisioned_qualifier_doesnotexist", name, "doesnotexist")
    wanted("put_provisioned_version_doesnotexist", name, "10")
    wanted("put_provisioned_latest", name, "$LATEST")


@replays("TestLambdaProvisionedConcurrency::test_lambda_provisioned_lifecycle")
def provisioned_life(on: Ground, _: str) -> None:
    name, alias = on.name(), on.name("-alias")
    on.create("", Environment={"Variables": {}}, Timeout=30)
    version, live = {"FunctionName": name, "Qualifier": "1"}, {"FunctionName": name, "Qualifier": alias}
    get, put, delete = (f"{verb}_provisioned_concurrency_config" for verb in ("get", "put", "delete"))
    on.step("publish_version_result", "publish_version", FunctionName=name)
    on.step("create_alias_result", "create_alias", FunctionName=name, FunctionVersion="1", Name=alias)
    on.step("put_provisioned_on_version", put, ProvisionedConcurrentExecutions=1, **version)
    on.step("put_provisioned_on_alias_versionconflict", put, ProvisionedConcurrentExecutions=1, **live)
    on.step("delete_provisioned_version", delete, **version)
    on.step("get_provisioned_version_postdelete", get, **version)
    on.step("put_provisioned_on_alias", put, ProvisionedConcurrentExecutions=1, **live)
    on.step("put_provisioned_on_version_conflict", put, ProvisionedConcurrentExecutions=1, **version)
    on.step("delete_alias_result", "delete_alias", FunctionName=name, Name=alias)
    on.step("get_provisioned_alias_postaliasdelete", get, **live)
    on.step("list_response_postdeletes", "list_provisioned_concurrency_configs", FunctionName=name)


# --------------------------------------------------------------------------- 05: versions, aliases, revisions


@replays("TestLambdaVersions::test_publish_version_on_create")
def publish_on_create(on: Ground, _: str) -> None:
    name = on.name()
    on.create("create_response", Publish=True)
    on.step("get_function_result", "get_function", FunctionName=name)
    on.step("get_function_version_result", "get_function", FunctionName=name, Qualifier="1")
    on.step("get_function_latest_result", "get_function", FunctionName=name, Qualifier="$LATEST")
    on.step("list_versions_result", "list_versions_by_function", FunctionName=name)
    repeated = on.call("publish_version", FunctionName=name)
    on.pairs.append((on.case["repeated_publish_response"], repeated))
    on.step("list_versions_result_after_publish", "list_versions_by_function", FunctionName=name)


@replays("TestLambdaVersions::test_version_lifecycle")
def version_life(on: Ground, _: str) -> None:
    name = on.name()

    def update(step: str) -> None:
        description = on.case[step]["Description"]
        on.step(step, "update_function_configuration", FunctionName=name, Description=description)
        settle()

    on.create("create_response")
    on.step("get_function_result", "get_function", FunctionName=name)
    on.step("list_versions_result", "list_versions_by_function", FunctionName=name)
    update("first_update_response")
    on.step("first_update_get_function", "get_function", FunctionName=name)
    first = on.case["first_publish_response"]["Description"]
    on.step("first_publish_response", "publish_version", FunctionName=name, Description=first)
    on.step("first_publish_get_function", "get_function", FunctionName=name, Qualifier="1")
    on.step("first_publish_get_function_config", "get_function_configuration", FunctionName=name, Qualifier="1")
    update("second_update_response")
    on.step("first_publish_get_function_after_update", "get_function", FunctionName=name, Qualifier="1")
    on.step("second_publish_response", "publish_version", FunctionName=name)
    on.step("third_publish_response", "publish_version", FunctionName=name, Description="Third version description :)")
    on.step("list_versions_result_after_third_publish", "list_versions_by_function", FunctionName=name)
    on.call("delete_function", FunctionName=name, Qualifier="1")
    on.step("list_versions_result_after_deletion_of_first_version", "list_versions_by_function", FunctionName=name)


@replays("TestLambdaVersions::test_publish_with_update")
def publish_with_update(on: Ground, _: str) -> None:
    name = on.name()
    on.create("create_response")
    on.step("get_function_result", "get_function", FunctionName=name)
    new = zipped("def handler(event, context):\n    return 2\n")
    on.step("update_function_code_result", "update_function_code", FunctionName=name, ZipFile=new, Publish=True)
    on.step("get_function_version_result", "get_function", FunctionName=name, Qualifier="1")
    on.step("get_function_latest_result", "get_function", FunctionName=name, Qualifier="$LATEST")


@replays("TestLambdaAlias::test_notfound_and_invalid_routingconfigs")
def routing(on: Ground, _: str) -> None:
    name = on.name()
    on.create("create_response", Publish=True)
    on.step("publish_v1", "publish_version", FunctionName=name)
    on.call("update_function_configuration", FunctionName=name, Environment={"Variables": {"testenv": "prod"}})
    settle()
    on.step("publish_v2", "publish_version", FunctionName=name)

    def create(step: str, function: str = name, alias: str = "custom", version: str = "1", **weights: Any) -> None:
        routed = {"RoutingConfig": {"AdditionalVersionWeights": weights["weights"]}} if weights else {}
        on.step(step, "create_alias", FunctionName=function, Name=alias, FunctionVersion=version, **routed)

    create("routing_config_exc_toomany", weights={"1": 0.5, "2": 0.5})
    create("routing_config_exc_toohigh", weights={"2": 2})
    create("routing_config_exc_subzero", weights={"2": -1})
    create("routing_config_exc_sameversion", weights={"1": 0.5})
    create("target_version_doesnotexist", version="10", weights={"2": 0.5})
    create("routing_config_exc_version_doesnotexist", weights={"10": 0.5})
    create("target_version_exc_version_latest", version="$LATEST", weights={"1": 0.5})
    create("routing_config_exc_version_latest", weights={"$LATEST": 0.5})
    create("create-alias-latest", alias="custom-latest", version="$LATEST")
    create("routing_config_exc_fn_doesnotexist", function=f"{name}-unknown", weights={"2": 0.5})
    create("create_alias_empty_routingconfig", alias="custom-empty-routingconfig", weights={})
    create("create_alias_response", weights={"2": 0.5})
    create("routing_config_exc_already_exist")
    on.step("alias_does_not_exist_esc", "get_alias", FunctionName=name, Name="non-existent")


@replays("TestLambdaRevisions::test_function_revisions_basic")
def revisions(on: Ground, _: str) -> None:
    name = on.name()
    on.create("create_function_response_rev1")
    second = on.step("get_function_response_rev2", "get_function", FunctionName=name)["Configuration"]["RevisionId"]
    new = {"FunctionName": name, "ZipFile": zipped()}
    wrong = "00000000-0000-4000-8000-000000000000"
    on.step("update_function_revision_exception", "update_function_code", RevisionId=wrong, **new)
    on.step("update_function_code_response_rev3", "update_function_code", RevisionId=second, **new)
    settle()
    fourth = on.step("get_function_response_rev4", "get_function", FunctionName=name)["Configuration"]["RevisionId"]
    update = {"FunctionName": name, "Runtime": "python3.12"}
    step = "update_function_configuration"
    on.step(f"{step}_revision_exception", step, RevisionId=wrong, **update)
    recorded = on.case[f"{step}_response_rev5"]
    on.step(f"{step}_response_rev5", step, RevisionId=fourth, FunctionName=name, Runtime=recorded["Runtime"])
    settle()
    on.step("get_function_response_rev6", "get_function", FunctionName=name)


@replays("TestLambdaRevisions::test_function_revisions_version_and_alias")
def revisions_of_versions(on: Ground, _: str) -> None:
    name, wrong = on.name(), "00000000-0000-4000-8000-000000000000"
    on.create("create_function_response_rev1")
    active = on.step("get_function_active_rev2", "get_function", FunctionName=name)["Configuration"]["RevisionId"]
    on.step("publish_version_revision_exception", "publish_version", FunctionName=name, RevisionId=wrong)
    on.step("publish_version_response_rev_v1", "publish_version", FunctionName=name, RevisionId=active)
    on.step("get_function_published_version_rev_v2", "get_function", FunctionName=name, Qualifier="1")
    on.step("get_function_latest_rev3", "get_function", FunctionName=name)
    alias = {"FunctionName": name, "Name": "revision_alias"}
    created = on.step("create_alias_response_rev_a1", "create_alias", FunctionVersion="1", **alias)
    on.step("get_function_latest_rev4", "get_function", FunctionName=name)
    on.step("get_function_published_version_rev_v3", "get_function", FunctionName=name, Qualifier="1")
    on.step("update_alias_revision_exception", "update_alias", RevisionId=wrong, **alias)
    changed = on.case["update_alias_response_rev_a2"]["Description"]
    on.step(
        "update_alias_response_rev_a2", "update_alias", RevisionId=created["RevisionId"], Description=changed, **alias
    )


@replays("TestLambdaAlias::test_non_existent_alias_deletion", "TestLambdaAlias::test_non_existent_alias_update")
def no_alias(on: Ground, _: str) -> None:
    alias = {"FunctionName": on.name(), "Name": "non-existent"}
    on.create("create_response")
    on.step("delete_alias_response", "delete_alias", **alias)
    on.step("update_alias_response", "update_alias", **alias)


# --------------------------------------------------------------------------- 08: event source mappings


@replays("TestLambdaEventSourceMappings::test_event_source_mapping_exceptions")
def mapping_refusals(on: Ground, _: str) -> None:
    unknown = {"UUID": "00000000-0000-4000-8000-000000000000"}
    queue = f"arn:aws:sqs:{REGION}:{ACCOUNT}:orders"
    on.create()
    on.step("get_unknown_uuid", "get_event_source_mapping", **unknown)
    on.step("delete_unknown_uuid", "delete_event_source_mapping", **unknown)
    on.step("update_unknown_uuid", "update_event_source_mapping", Enabled=False, **unknown)
    create = "create_event_source_mapping"
    on.step("create_no_event_source_arn", create, FunctionName="doesnotexist")
    on.step("create_unknown_params", create, FunctionName="doesnotexist", EventSourceArn=queue)
    on.step(
        "destination_config_failure", create, FunctionName=on.name(), EventSourceArn=queue,
        DestinationConfig={"OnSuccess": {"Destination": f"arn:aws:sqs:{REGION}:{ACCOUNT}:other"}},
    )  # fmt: skip


@replays("TestLambdaEventSourceMappings::test_create_event_source_validation")
def mapping_starts(on: Ground, _: str) -> None:
    table = f"arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/table/stream/stream"
    given = {"FunctionName": on.name(), "EventSourceArn": table}
    on.create()
    on.step("no_starting_position", "create_event_source_mapping", **given)
    on.step("invalid_starting_position", "create_event_source_mapping", StartingPosition="invalid", **given)
    on.step("incompatible_starting_position", "create_event_source_mapping", StartingPosition="AT_TIMESTAMP", **given)


@replays("TestSQSEventSourceMapping::test_event_source_mapping_default_batch_size")
def batch_sizes(on: Ground, _: str) -> None:
    given = {"FunctionName": on.name(), "EventSourceArn": f"arn:aws:sqs:{REGION}:{ACCOUNT}:orders"}
    on.create()
    created = on.step("create-event-source-mapping", "create_event_source_mapping", **given)
    on.step("invalid-update-event-source-mapping", "update_event_source_mapping", UUID=created["UUID"], BatchSize=11)
    on.call("delete_event_source_mapping", UUID=created["UUID"])
    on.step("invalid-create-event-source-mapping", "create_event_source_mapping", BatchSize=11, **given)


@replays("TestSQSEventSourceMapping::test_sqs_invalid_event_filter")
def bad_filters(on: Ground, parameter: str) -> None:
    pattern = {"None": None, "simple string": "simple string", "invalid_filter3": '{"eventSource": []}'}.get(
        parameter, '{"eventSource": "aws:sqs"}'
    )
    on.create()
    on.step(
        "create_event_source_mapping_exception", "create_event_source_mapping", FunctionName=on.name(),
        EventSourceArn=f"arn:aws:sqs:{REGION}:{ACCOUNT}:orders",
        FilterCriteria={"Filters": [{"Pattern": json.dumps(pattern) if pattern is None else pattern}]},
    )  # fmt: skip


@replays("TestDynamoDBEventSourceMapping::test_dynamodb_invalid_event_filter")
def bad_filters_of_a_table(on: Ground, parameter: str) -> None:
    table = f"arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/t/stream/2026-01-01T00:00:00.000"
    on.create()
    on.step(
        "exception_event_source_creation", "create_event_source_mapping", FunctionName=on.name(), EventSourceArn=table,
        StartingPosition="TRIM_HORIZON", FilterCriteria={"Filters": [{"Pattern": parameter}]},
    )  # fmt: skip


@replays("TestSQSEventSourceMapping::test_duplicate_event_source_mappings")
def duplicates(on: Ground, _: str) -> None:
    given = {"FunctionName": on.name(), "EventSourceArn": f"arn:aws:sqs:{REGION}:{ACCOUNT}:orders"}
    on.create()
    created = on.step("create", "create_event_source_mapping", **given)
    on.step("error", "create_event_source_mapping", **given)
    on.call("delete_event_source_mapping", UUID=created["UUID"])


@replays("test_esm_with_not_existing_sqs_queue")
def no_queue(on: Ground, _: str) -> None:
    on.create()
    queue = f"arn:aws:sqs:{REGION}:{ACCOUNT}:gone"
    on.step("error", "create_event_source_mapping", FunctionName=on.name(), EventSourceArn=queue)


@replays("TestLambdaEventSourceMappings::test_create_event_source_self_managed")
def topics(on: Ground, _: str) -> None:
    create, secret = "create_event_source_mapping", f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:login-AbCdEf"

    def given(topic: str, *servers: str, **options: Any) -> dict[str, Any]:
        endpoints = {"Endpoints": {"KAFKA_BOOTSTRAP_SERVERS": list(servers)}}
        return {"FunctionName": on.name(), "Topics": [topic], "SelfManagedEventSource": endpoints, **options}

    access = {"SourceAccessConfigurations": [{"Type": "BASIC_AUTH", "URI": secret}]}
    on.create()
    on.step("missing-source-access-configuration", create, **given("topic", "kafka:1000"))
    first = on.step("event-source-mapping-default", create, **given("topic", "kafka:1000", **access))
    on.step("duplicate-source", create, **given("topic", "kafka:1000", **access))
    second = on.step(
        "event-source-mapping-values", create, BatchSize=1, StartingPosition="LATEST",
        SelfManagedKafkaEventSourceConfig={"ConsumerGroupId": "random_id"}, **given("topic_2", "kafka:1000", **access),
    )  # fmt: skip
    on.step("multiple-duplicate-source", create, **given("topic", "kafka:1000", "kafka:2000", **access))
    for each in (first, second):
        on.call("delete_event_source_mapping", UUID=each["UUID"])


CASES = cases(__name__, *AREAS[:-2])

if CASES:

    @pytest.mark.parametrize("identity", sorted(CASES))
    def test_the_api_answers_what_aws_was_recorded_to_answer(api_server: Server, identity: str) -> None:
        replay(api_server, CASES[identity])
