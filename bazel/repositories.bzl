"""Every external repository of Mycelium Mesh.

Nothing here touches the network: each repository is a view of a Debian 12
package. `bazel build //...` therefore needs only apt, and fails with one
message that names every package that is missing.
"""

load("//bazel:debian_rules_cc.bzl", "debian_rules_cc")
load("//bazel:system_libraries.bzl", "system_libraries")
load("//bazel:system_protobuf.bzl", "system_protobuf")

# pkg-config module -> Debian package. The label of a library is the name of
# its module: `pkg-config --libs grpc++` is `@system//:grpc++`.
_PKG_CONFIG_MODULES = {
    "absl_any_invocable": "libabsl-dev",
    "absl_base": "libabsl-dev",
    "absl_bits": "libabsl-dev",
    "absl_btree": "libabsl-dev",
    "absl_cleanup": "libabsl-dev",
    "absl_cord": "libabsl-dev",
    "absl_core_headers": "libabsl-dev",
    "absl_flat_hash_map": "libabsl-dev",
    "absl_flat_hash_set": "libabsl-dev",
    "absl_function_ref": "libabsl-dev",
    "absl_hash": "libabsl-dev",
    "absl_inlined_vector": "libabsl-dev",
    "absl_node_hash_map": "libabsl-dev",
    "absl_numeric": "libabsl-dev",
    "absl_optional": "libabsl-dev",
    "absl_random_random": "libabsl-dev",
    "absl_span": "libabsl-dev",
    "absl_status": "libabsl-dev",
    "absl_statusor": "libabsl-dev",
    "absl_str_format": "libabsl-dev",
    "absl_strings": "libabsl-dev",
    "absl_synchronization": "libabsl-dev",
    "absl_time": "libabsl-dev",
    "gflags": "libgflags-dev",
    "gmock": "libgmock-dev",
    "gmock_main": "libgmock-dev",
    "grpc++": "libgrpc++-dev",
    "gtest": "libgtest-dev",
    "libarchive": "libarchive-dev",
    "libcrypto": "libssl-dev",
    "libglog": "libgoogle-glog-dev",
    "libssl": "libssl-dev",
    "protobuf": "libprotobuf-dev",
    "sqlite3": "libsqlite3-dev",
    "zlib": "zlib1g-dev",
}

# Libraries that Debian ships without a .pc file: name -> module it extends.
_PLAIN_LIBRARIES = {
    "grpc++_error_details": "grpc++",
    "grpc++_reflection": "grpc++",
    "grpcpp_channelz": "grpc++",
}

def mycelium_repositories():
    """Declares all external repositories; WORKSPACE calls nothing else."""
    system_libraries(
        name = "system",
        modules = _PKG_CONFIG_MODULES,
        plain_libraries = _PLAIN_LIBRARIES,
    )
    system_protobuf(name = "com_google_protobuf")
    debian_rules_cc(name = "rules_cc")
    native.local_repository(
        name = "rules_java",  # Bazel's own @bazel_tools loads it.
        path = "/usr/share/bazel/rules/java",
    )
    _empty_coverage_tools(name = "remote_coverage_tools")

def _empty_coverage_tools_impl(ctx):
    ctx.file("BUILD.bazel", """\
package(default_visibility = ["//visibility:public"])

filegroup(name = "coverage_report_generator")

filegroup(name = "lcov_merger")
""")

# Every test rule depends on these two labels, which Bazel would otherwise
# download. They are only used by `bazel coverage`.
_empty_coverage_tools = repository_rule(implementation = _empty_coverage_tools_impl)
