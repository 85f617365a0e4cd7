"""What a Redis server does at once for a store, in its own language.

Owns the scripts, each of which touches one key. Refuses to know who calls them.
"""

from __future__ import annotations

from typing import Final

from gateway.store.shelf import FORGET_SECONDS, SLACK_SECONDS

PREFIX: Final = "dial-gateway:"
CHANNEL: Final = PREFIX + "tokens"
MOST_DIGITS: Final = 15  # what Lua's numbers hold exactly, and more than a time in milliseconds has

# The rules are those of `Shelf` and `Ledger`, where each is explained; the server's clock is the one that all replicas
# share. Fields of a token: g generation, s sealed, f fence, b begun and u until (milliseconds), w working, n failures,
# o owner of the lease, if others can see whether it is alive. Fields of a record: v version, s sealed, which is missing
# when it was erased. Numbers are written as text, because Lua would write large ones with an exponent. What is no
# number there, we have not written: it counts as 0, and is written over by what comes next.
_BEGIN: Final = f"""
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function number(name)
    local found = redis.call('HGET', KEYS[1], name) or ''
    return #found <= {MOST_DIGITS} and tonumber(string.match(found, '^%d+$')) or 0
end
local function text(value) return string.format('%.0f', value) end
local function touch() redis.call('PEXPIRE', KEYS[1], '{FORGET_SECONDS * 1000:.0f}') end
"""
LEASE: Final = (
    _BEGIN
    + f"""
local left, owner = number('u') - now, redis.call('HGET', KEYS[1], 'o') or ''
local orphaned = number('w') == 1 and ARGV[3] ~= '' and ARGV[3] == owner
if left > 0 and number('b') <= now + {SLACK_SECONDS * 1000:.0f} and not orphaned then
    return {{0, text(left), number('w'), number('n'), owner}}
end
local fence = text(math.max(number('f') + 1, now))
redis.call('HSET', KEYS[1], 'f', fence, 'b', text(now), 'u', text(now + ARGV[1]), 'w', '1', 'o', ARGV[2])
touch()
return {{1, fence, 1, number('n'), ''}}
"""
)
PUT: Final = (
    _BEGIN
    + f"""
local generation, after = tonumber(ARGV[2]), tonumber(ARGV[3])
if number('g') ~= after or generation <= after then return 0 end
if ARGV[4] ~= '' then
    if number('w') ~= 1 or number('f') ~= tonumber(ARGV[4]) or number('u') <= now then return 0 end
    redis.call('HSET', KEYS[1], 'u', '0', 'w', '0')
end
redis.call('HSET', KEYS[1], 'g', ARGV[2], 's', ARGV[1], 'n', '0')
touch()
redis.call('PUBLISH', '{CHANNEL}', ARGV[5])
return 1
"""
)
RESEAL: Final = (
    _BEGIN
    + """
if number('g') == 0 or number('g') ~= tonumber(ARGV[2]) then return 0 end
redis.call('HSET', KEYS[1], 's', ARGV[1])
return 1
"""
)
RELEASE: Final = (
    _BEGIN
    + """
local hold = tonumber(ARGV[2])
if number('w') ~= 1 and hold > 0 or number('f') ~= tonumber(ARGV[1]) or number('u') <= now then return 0 end
redis.call('HSET', KEYS[1], 'w', '0', 'b', text(now), 'u', text(now + hold))
if hold > 0 then redis.call('HSET', KEYS[1], 'n', text(number('n') + 1)) end
touch()
return 1
"""
)
_RECORD: Final = (
    _BEGIN
    + """
local left, after = number('v'), tonumber(ARGV[2])
local present = redis.call('HEXISTS', KEYS[1], 's') == 1 and left or 0
local function keep(version, milliseconds)
    redis.call('PEXPIRE', KEYS[1], text(math.max(milliseconds, version + 2 - now)))
end
if present ~= after then return '0' end
"""
)
WRITE: Final = (
    _RECORD
    + f"""
local version = math.max(left + 1, now)
redis.call('HSET', KEYS[1], 'v', text(version), 's', ARGV[3])
keep(version, tonumber(ARGV[4]))
redis.call('PUBLISH', '{CHANNEL}', ARGV[1])
return text(version)
"""
)
ERASE: Final = (
    _RECORD
    + f"""
if present == 0 then return '0' end
redis.call('HDEL', KEYS[1], 's')
keep(left, 0)
redis.call('PUBLISH', '{CHANNEL}', ARGV[1])
return '1'
"""
)
