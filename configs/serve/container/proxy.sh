#!/bin/sh
# nginx, with the inference key that TorchServe makes at each start, and with the next one once it was started again.
# Until there is a key it answers 503.
set -eu
umask 077
nginx=${PROXY:-nginx} conf=${PROXY_CONF:-/etc/cxr/nginx.conf}
keys=${KEY_FILE:-/run/cxr/key_file.json} made=${KEY_CONF:-/tmp/key.conf}

header() {
    line=$(sed -n '/"inference"/,/}/s/.*"key": "\([A-Za-z0-9_=-]*\)".*/proxy_set_header Authorization "Bearer \1";/p' "$keys" 2>&-) || line=
    echo "${line:-return 503;}"
}

current=$(header)
echo "$current" > "$made"
"$nginx" -c "$conf" -g 'daemon off;' &
proxy=$!
trap 'kill -QUIT $proxy; wait $proxy; exit 0' TERM INT QUIT
while kill -0 "$proxy" 2>&-; do
    found=$(header)
    if [ "$found" != "$current" ]; then
        current=$found
        echo "$current" > "$made"
        kill -HUP "$proxy"
    fi
    sleep 1 &
    wait $!
done
wait "$proxy"
