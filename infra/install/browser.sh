#!/bin/sh
# Chromium for the tests that look at the Prefect and MLflow pages. Those tests skip themselves, saying so, without it;
# so this ends well in any case. Usage: make browser.
set -u

command -v "${CHROMIUM:-chromium}" >/dev/null && exit 0
if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
    echo "browser: no chromium here, and only root on Debian may install it now; the browser tests will be skipped" >&2
    exit 0
fi
echo "browser: Debian package chromium"
{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y chromium; } >/dev/null ||
    echo "browser: apt-get could not install chromium; the browser tests will be skipped" >&2
exit 0
