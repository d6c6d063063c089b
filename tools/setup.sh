#!/bin/bash
# Installs the Debian packages that Mycelium Mesh is built from. Does nothing,
# quickly, when they are all there.
#
#   tools/setup.sh          what `bazel build` needs
#   tools/setup.sh --dev    and what tests and lints need
#   tools/setup.sh --list   prints the packages, installs nothing
#
# This is the only place that lists packages.
set -euo pipefail

build_packages=(
  bazel-bootstrap bazel-rules-cc bazel-rules-java g++ git grpc-proto
  libabsl-dev libarchive-dev libgflags-dev libgmock-dev libgoogle-glog-dev
  libgrpc++-dev libgtest-dev libprotobuf-dev libsqlite3-dev libssl-dev
  pkg-config protobuf-compiler protobuf-compiler-grpc zlib1g-dev
)

dev_packages=(
  ca-certificates caddy clang clang-format clang-tidy curl jq libclang-rt-14-dev
  nginx-light nodejs npm openssl procps prometheus python3 python3-grpcio
  python3-prometheus-client python3-protobuf
)

dev=no
list=no
for argument in "$@"; do
  case "$argument" in
    --dev) dev=yes ;;
    --list) list=yes ;;
    -h | --help)
      sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"
      exit 0
      ;;
    *)
      echo "setup.sh: unknown argument '$argument'; it takes --dev and --list" >&2
      exit 2
      ;;
  esac
done

packages=("${build_packages[@]}")
if [[ $dev == yes ]]; then packages+=("${dev_packages[@]}"); fi

if [[ $list == yes ]]; then
  printf '%s\n' "${packages[@]}"
  exit 0
fi

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
  name=$(. /etc/os-release 2>/dev/null && echo "${PRETTY_NAME:-}" || true)
  cat >&2 <<MESSAGE
setup.sh: this is ${name:-no Debian}; Mycelium Mesh is built from the packages
of Debian 12 (bookworm), of which these are needed:
  ${packages[*]}
Build it in a Debian 12 machine, or install the same by hand and go on with
  bazel build //...
MESSAGE
  exit 1
fi

# One query for all; packages that dpkg has never heard of make it fail.
installed=" $(dpkg-query --show --showformat='${db:Status-Status}:${Package} ' \
  "${packages[@]}" 2>/dev/null || true)"

# Node.js from another source brings its own npm, which Debian's package would
# conflict with: there the program counts, not the package.
provided() {
  case "$1" in
    nodejs) command -v node >/dev/null ;;
    npm) command -v npm >/dev/null ;;
    *) return 1 ;;
  esac
}

missing=()
for package in "${packages[@]}"; do
  [[ $installed == *" installed:$package "* ]] || provided "$package" || missing+=("$package")
done

if ((${#missing[@]} == 0)); then
  echo "setup.sh: all ${#packages[@]} packages are installed"
  exit 0
fi

if ((EUID == 0)); then
  as_root=()
elif command -v sudo >/dev/null; then
  as_root=(sudo)
else
  cat >&2 <<MESSAGE
setup.sh: packages are missing, and only root can install them. Run as root:
  apt-get update && apt-get install --no-install-recommends ${missing[*]}
MESSAGE
  exit 1
fi

echo "setup.sh: installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
install=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install
  --yes --no-install-recommends -o DPkg::Lock::Timeout=300 "${missing[@]}")

# The package lists of a fresh machine are empty, those of an old one stale.
if ! "${install[@]}" >/dev/null 2>&1; then
  "${as_root[@]}" apt-get update --quiet
  "${install[@]}"
fi

# Debian starts what it installs; the mesh needs none of these as a service,
# and they would take its ports.
if [[ $dev == yes ]] && command -v systemctl >/dev/null; then
  for service in caddy nginx prometheus; do
    if [[ " ${missing[*]} " == *" $service"* ]]; then
      "${as_root[@]}" systemctl disable --now "$service" >/dev/null 2>&1 || true
    fi
  done
fi
echo "setup.sh: done"
