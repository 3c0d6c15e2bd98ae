# Sourced by install.sh and lock.sh: makes uv look where pip is configured to look.
# uv reads neither pip's configuration nor its environment variables.

# PyTorch's public index of CPU builds, asked only when pip's own configuration does not lead to one.
TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu

# pip_setting NAME: the value pip would use for NAME (environment first, then its files), or nothing.
# Reads `$python`, an interpreter that has pip.
pip_setting() {
    "$python" -m pip config list 2>/dev/null | sed -n "s/^:env:\\.$1='\\(.*\\)'\$/1 \\1/p; s/^[a-z]*\\.$1='\\(.*\\)'\$/2 \\1/p" |
        sort | head -n 1 | cut -c 3- | sed 's/\\n/ /g'
}

# export_pip_settings: UV_FIND_LINKS, UV_DEFAULT_INDEX and SSL_CERT_FILE from pip's settings, unless they are set.
export_pip_settings() {
    links=$(pip_setting find-links)
    index=$(pip_setting index-url)
    certificate=$(pip_setting cert)
    [ -n "${UV_FIND_LINKS:-}" ] || [ -z "$links" ] || export UV_FIND_LINKS="$(echo "$links" | tr -s ' ' ',')"
    [ -n "${UV_DEFAULT_INDEX:-}" ] || [ -z "$index" ] || export UV_DEFAULT_INDEX="$index"
    [ -n "${SSL_CERT_FILE:-}" ] || [ -z "$certificate" ] || export SSL_CERT_FILE="$certificate"
}
