"""cc_fuzz_test: a libFuzzer target that is also an ordinary test.

Under --config=fuzz the target is linked with libFuzzer:

    bazel run --config=fuzz //lib/spore:manifest_fuzz -- -max_total_time=60 /tmp/corpus

Everywhere else it is a test that feeds every file of its seed corpus to
LLVMFuzzerTestOneInput once, so that what a fuzzer found stays fixed.
"""

load("@rules_cc//cc:defs.bzl", "cc_test")

def cc_fuzz_test(name, srcs, corpus, deps, **kwargs):
    """Declares a fuzz target.

    Args:
      name: name of the target, ending in _fuzz.
      srcs: sources that define LLVMFuzzerTestOneInput.
      corpus: seed files, each a small foreign input.
      deps: libraries under test.
      **kwargs: further attributes of cc_test.
    """
    cc_test(
        name = name,
        size = "small",
        srcs = srcs,
        # Given files instead of a directory, libFuzzer would only replay them.
        args = select({
            "//bazel:fuzz": [],
            "//conditions:default": ["$(locations %s)" % label for label in corpus],
        }),
        data = corpus,
        linkopts = select({
            # Bazel links with clang, which leaves out the C++ part of the
            # sanitizers' runtime unless told otherwise.
            "//bazel:fuzz": ["-fsanitize=fuzzer", "-fsanitize-link-c++-runtime"],
            "//conditions:default": [],
        }),
        deps = deps + select({
            "//bazel:fuzz": [],
            "//conditions:default": ["//bazel:fuzz_replay"],
        }),
        **kwargs
    )
