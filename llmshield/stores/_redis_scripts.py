"""The Lua that the Redis store runs: one script per step, so each step is atomic and one round trip.

Redis computes in doubles, which are exact to 2^53 only (9,007 USD), so no sum is ever a Lua number: an amount
is a string of digits, split into two halves of which each is exact, and written back as a string.

All keys share one hash tag: a step never leaves its cluster slot, and one node of a cluster has them all.
`KEYS[1]` is the prefix with that tag; the keys built from it are in the same slot. Needs Redis 5 or later.

    acc:ACCOUNT|WINDOW  hash   s spent, h held, r requests, t tokens
    accounts            set    of ACCOUNT|WINDOW
    steps:ACCOUNT|KIND: zset   of ACCOUNT|WINDOW: the steps of a rolling window, in order of their names
    hold:ID             hash   a amount, l lines, t tenant, p provider, m model
    due                 zset   of hold ids by the end of their lease
    end:ID              string kind and amount of what a hold came to (gone after KEPT_MS)
    journal             stream

What else is in the book's slot (its epoch, the notes) is in `_redis_notes`.
"""

from __future__ import annotations

from types import MappingProxyType

from llmshield.stores._ages import STEP_KEPT_MS
from llmshield.stores._redis_notes import (
    BEGIN,
    CHECK,
    LOOK,
    NOTES,
    PUT,
    PUT_ONCE,
    REVISION,
    STRIKE,
    SWAP,
    TURN,
)

KEPT_MS = 7 * 86_400_000
"""How long a finished id is remembered, and an account after the end of its window."""

_DIGITS = """
local MAX = '4611686018427387903'
local HALF = 1000000000
local function split(text)
  local n = #text
  if n <= 9 then return 0, tonumber(text) end
  return tonumber(string.sub(text, 1, n - 9)), tonumber(string.sub(text, n - 8))
end
local function join(high, low)
  if high == 0 then return string.format('%d', low) end
  return string.format('%d%09d', high, low)
end
local function less(a, b)
  local ah, al = split(a)
  local bh, bl = split(b)
  return ah < bh or (ah == bh and al < bl)
end
local function plus(a, b)
  local ah, al = split(a)
  local bh, bl = split(b)
  local high, low = ah + bh, al + bl
  if low >= HALF then high, low = high + 1, low - HALF end
  local sum = join(high, low)
  if less(MAX, sum) then return MAX end
  return sum
end
local function minus(a, b)
  if less(a, b) then return '0' end
  local ah, al = split(a)
  local bh, bl = split(b)
  local high, low = ah - bh, al - bl
  if low < 0 then high, low = high - 1, low + HALF end
  return join(high, low)
end
"""

_BOOK = (
    CHECK
    + _DIGITS
    + f"local KEPT, STEP_KEPT = {KEPT_MS}, {STEP_KEPT_MS}\n"
    + """
local function account(name, ends, now)
  local key = P .. 'acc:' .. name
  local has = redis.call('HMGET', key, 's', 'h', 'r', 't')
  if not has[1] then
    redis.call('HSET', key, 's', '0', 'h', '0', 'r', '0', 't', '0')
    redis.call('SADD', P .. 'accounts', name)
    local kind = string.match(name, '^(.*|%d[^|:]*:)[^|:]*$')
    if ends > 0 then
      redis.call('PEXPIRE', key, math.max(1, ends - now) + (kind and STEP_KEPT or KEPT))
    end
    if kind then
      -- a step of a rolling window: listed, and what has gone is taken off the list
      local steps = P .. 'steps:' .. kind
      redis.call('ZADD', steps, 0, name)
      redis.call('PEXPIRE', steps, math.max(1, ends - now) + KEPT)
      for _, old in ipairs(redis.call('ZRANGE', steps, 0, 9)) do
        if redis.call('EXISTS', P .. 'acc:' .. old) == 0 then
          redis.call('ZREM', steps, old)
          redis.call('SREM', P .. 'accounts', old)
        end
      end
    end
    return key, '0', '0', '0', '0'
  end
  return key, has[1], has[2], has[3], has[4]
end
local function whole(high, low)
  local over = math.floor(low / HALF)
  local sum = join(high + over, low - over * HALF)
  if less(MAX, sum) then return MAX end
  return sum
end
local function rolling(since)
  local steps = P .. 'steps:' .. string.match(since, '^(.*:)')
  local spent_high, spent_low, held_high, held_low, oldest = 0, 0, 0, 0, ''
  for _, name in ipairs(redis.call('ZRANGEBYLEX', steps, '[' .. since, '+')) do
    local has = redis.call('HMGET', P .. 'acc:' .. name, 's', 'h')
    if has[1] and (has[1] ~= '0' or has[2] ~= '0') then
      if oldest == '' then oldest = name end
      local high, low = split(has[1])
      spent_high, spent_low = spent_high + high, spent_low + low
      if has[2] ~= '0' then
        high, low = split(has[2])
        held_high, held_low = held_high + high, held_low + low
      end
    end
  end
  return whole(spent_high, spent_low), whole(held_high, held_low), oldest
end
local function ended(id)
  local text = redis.call('GET', P .. 'end:' .. id)
  if not text then return nil end
  return string.match(text, '^(%a+) (%d+)$')
end
-- lines: {name, ends, name, ends, ...}; charge is added, or with `back` taken off
local function charge(id, kind, lines, amount, back, held, now, tenant, provider, model, tin, tout)
  local names, both = {}, plus(tin, tout)
  for i = 1, #lines, 2 do
    local key, spent, holds, requests, tokens = account(lines[i], tonumber(lines[i + 1]), now)
    names[#names + 1] = lines[i]
    if back then spent = minus(spent, amount) else spent = plus(spent, amount) end
    if kind ~= 'correct' then requests = plus(requests, '1') end
    redis.call('HSET', key, 's', spent, 'h', minus(holds, held), 'r', requests, 't', plus(tokens, both))
  end
  redis.call('XADD', P .. 'journal', '*', 'id', id, 'kind', kind, 'at', now, 'amount', (back and '-' or '') .. amount,
    'tenant', tenant, 'provider', provider, 'model', model, 'in', tin, 'out', tout,
    'accounts', table.concat(names, '\\n'))
  redis.call('SET', P .. 'end:' .. id, kind .. ' ' .. amount, 'PX', KEPT)
  step()
end
local function expire(now, most)
  local due = redis.call('ZRANGEBYSCORE', P .. 'due', '-inf', now, 'LIMIT', 0, most)
  for _, id in ipairs(due) do
    local key = P .. 'hold:' .. id
    local hold = redis.call('HMGET', key, 'a', 'l', 't', 'p', 'm')
    redis.call('ZREM', P .. 'due', id)
    if hold[1] then
      redis.call('DEL', key)
      local lines = {}
      for part in string.gmatch(hold[2], '[^\\n]+') do lines[#lines + 1] = part end
      charge(id, 'expire', lines, hold[1], false, hold[1], now, hold[3], hold[4], hold[5], '0', '0')
    end
  end
  return #due
end
local function rest(from)
  local out = {}
  for i = from, #ARGV do out[#out + 1] = ARGV[i] end
  return out
end
"""
)

_RESERVE = (
    _BOOK
    + """
local id, now, want, least = ARGV[1], tonumber(ARGV[2]), ARGV[4], ARGV[5]
expire(now, 16)
local known = redis.call('HGET', P .. 'hold:' .. id, 'a')
if known then return {1, known, '1', N} end
if ended(id) then return {1, '0', '1', N} end
local amount, tight, tightest = want, nil, 0
local found = {}
local lines = {}
for i = 9, #ARGV, 4 do
  local key, spent, held = account(ARGV[i], tonumber(ARGV[i + 2]), now)
  found[#found + 1] = {key, held}
  lines[#lines + 1] = ARGV[i]
  lines[#lines + 1] = ARGV[i + 2]
  if ARGV[i + 1] ~= '' then
    local oldest = ''
    if ARGV[i + 3] ~= '' then spent, held, oldest = rolling(ARGV[i + 3]) end
    local left = minus(minus(ARGV[i + 1], spent), held)
    if less(left, least) then return {0, tostring((i - 9) / 4), spent, held, oldest} end
    if less(left, amount) then amount = left end
    if not tight or less(left, tight) then tight, tightest = left, (i - 9) / 4 end
  end
end
for _, pair in ipairs(found) do redis.call('HSET', pair[1], 'h', plus(pair[2], amount)) end
redis.call('HSET', P .. 'hold:' .. id, 'a', amount, 'l', table.concat(lines, '\\n'), 't', ARGV[6], 'p', ARGV[7], 'm', ARGV[8])
redis.call('ZADD', P .. 'due', ARGV[3], id)
step()
return {1, amount, '0', N, tight and minus(tight, amount) or '', tightest}
"""
)

_STANDING = (
    _BOOK
    + """
local out = {}
for i = 1, #ARGV, 2 do
  local has, oldest = redis.call('HMGET', P .. 'acc:' .. ARGV[i], 's', 'h'), ''
  if ARGV[i + 1] ~= '' then has[1], has[2], oldest = rolling(ARGV[i + 1]) end
  out[#out + 1] = has[1] or '0'
  out[#out + 1] = has[2] or '0'
  out[#out + 1] = oldest
end
return out
"""
)

_SETTLE = (
    _BOOK
    + """
local id, now, amount = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local kind, back, held = 'settle', false, redis.call('HGET', P .. 'hold:' .. id, 'a')
if held then
  redis.call('DEL', P .. 'hold:' .. id)
  redis.call('ZREM', P .. 'due', id)
else
  held = '0'
  local how, before = ended(id)
  if how and how ~= 'expire' then return {'0', '0', N} end
  if how then
    kind = 'correct'
    back = less(amount, before)
    if back then amount = minus(before, amount) else amount = minus(amount, before) end
  end
end
charge(id, kind, rest(9), amount, back, held, now, ARGV[6], ARGV[7], ARGV[8], ARGV[4], ARGV[5])
return {(back and '-' or '') .. amount, held, N}
"""
)

_RELEASE = (
    _BOOK
    + """
local held = redis.call('HGET', P .. 'hold:' .. ARGV[1], 'a')
if not held then return {'0', N} end
redis.call('DEL', P .. 'hold:' .. ARGV[1])
redis.call('ZREM', P .. 'due', ARGV[1])
for i = 2, #ARGV do
  local key = P .. 'acc:' .. ARGV[i]
  redis.call('HSET', key, 'h', minus(redis.call('HGET', key, 'h') or '0', held))
end
step()
return {held, N}
"""
)

_RENEW = (
    CHECK
    + """
local found = 0
for i = 2, #ARGV do
  if redis.call('ZSCORE', P .. 'due', ARGV[i]) then
    redis.call('ZADD', P .. 'due', ARGV[1], ARGV[i])
    found = found + 1
  end
end
return found
"""
)

_EXPIRE = (
    _BOOK
    + NOTES
    + """
for _, member in ipairs(redis.call('ZRANGEBYSCORE', P .. 'notes-end', '-inf', ARGV[1], 'LIMIT', 0, 500)) do
  local at = string.find(member, '\\n', 1, true)
  remove(string.sub(member, 1, at - 1), string.sub(member, at + 1))
end
local done = expire(tonumber(ARGV[1]), tonumber(ARGV[2]))
return {done, N}
"""
)

_GATES = """
local P = KEYS[1]
local STEPS = 60
-- the steps of a window that still count: {step, hits} pairs, oldest first, and their sum
local function counted(key, now_step)
  local pairs_, sum, old = {}, 0, {}
  local all = redis.call('HGETALL', key)
  for i = 1, #all, 2 do
    local step, hits = tonumber(all[i]), tonumber(all[i + 1])
    if step < now_step - STEPS then old[#old + 1] = all[i]
    else pairs_[#pairs_ + 1] = {step, hits}; sum = sum + hits end
  end
  if #old > 0 then redis.call('HDEL', key, unpack(old)) end
  table.sort(pairs_, function(a, b) return a[1] < b[1] end)
  return pairs_, sum
end
local function add(key, steps, now_step, cost, ttl)
  if cost < 0 then
    for _, pair in ipairs(steps) do
      if pair[1] == now_step then
        redis.call('HINCRBY', key, string.format('%d', now_step), -math.min(-cost, pair[2]))
      end
    end
    return
  end
  local step = now_step
  if #steps > 0 and steps[#steps][1] > step then step = steps[#steps][1] end
  redis.call('HINCRBY', key, string.format('%d', step), cost)
  redis.call('PEXPIRE', key, ttl)
end
"""

# ARGV: now, cost, windows, then name, limit, step_ms, window_ms of each; then name, limit, id, ttl of each seat
_ADMIT = (
    _GATES
    + """
local now, cost, n = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local gates, full, longest = {}, -1, 0
local at = 4
for i = 1, n do
  local limit, step_ms, window_ms = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  local key, now_step = P .. 'gate:' .. ARGV[at], math.floor(now / step_ms)
  local steps, sum = counted(key, now_step)
  gates[i] = {key, steps, sum, now_step, step_ms, window_ms}
  if sum + cost > limit then
    local wait, over = window_ms, sum + cost - limit
    if cost <= limit then
      for _, pair in ipairs(steps) do
        over = over - pair[2]
        if over <= 0 then wait = math.max(1, (pair[1] + STEPS + 1) * step_ms - now) break end
      end
    end
    if wait > longest then full, longest = i - 1, wait end
  end
  at = at + 4
end
if full < 0 then
  local index = n
  for i = at, #ARGV, 4 do
    local key = P .. 'seat:' .. ARGV[i]
    redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
    if not redis.call('ZSCORE', key, ARGV[i + 2]) and redis.call('ZCARD', key) >= tonumber(ARGV[i + 1]) then
      full = index
      break
    end
    index = index + 1
  end
end
if full < 0 then
  for _, gate in ipairs(gates) do
    add(gate[1], gate[2], gate[4], cost, gate[6] + 2 * gate[5])
    gate[3] = gate[3] + cost
    if #gate[2] == 0 then gate[2] = {{gate[4], cost}} end
  end
  for i = at, #ARGV, 4 do
    local key, ttl = P .. 'seat:' .. ARGV[i], tonumber(ARGV[i + 3])
    redis.call('ZADD', key, now + ttl, ARGV[i + 2])
    redis.call('PEXPIRE', key, 2 * ttl)
  end
end
local out = {full, longest}
for _, gate in ipairs(gates) do
  out[#out + 1] = gate[3]
  local oldest = gate[2][1]
  out[#out + 1] = oldest and math.max(0, (oldest[1] + STEPS + 1) * gate[5] - now) or 0
end
return out
"""
)

_COUNT = (
    _GATES
    + """
local now, cost, at = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
for i = 4, #ARGV, 4 do
  local step_ms, window_ms = tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3])
  local key = P .. 'gate:' .. ARGV[i]
  local steps = counted(key, math.floor(now / step_ms))
  add(key, steps, math.floor(at / step_ms), cost, window_ms + 2 * step_ms)
end
return 0
"""
)

_LEAVE = """
for i = 1, #ARGV, 2 do redis.call('ZREM', KEYS[1] .. 'seat:' .. ARGV[i], ARGV[i + 1]) end
return 0
"""

# A seat ends by its own time; the key's end (an hour after the last sign of life) only forgets what nobody asks for.
_SIT = """
for i = 1, #ARGV, 3 do
  local key = KEYS[1] .. 'seat:' .. ARGV[i]
  redis.call('ZADD', key, tonumber(ARGV[i + 2]), ARGV[i + 1])
  redis.call('PEXPIRE', key, 3600000)
end
return 0
"""

SCRIPTS = MappingProxyType(
    {
        "reserve": _RESERVE,
        "standing": _STANDING,
        "settle": _SETTLE,
        "release": _RELEASE,
        "renew": _RENEW,
        "expire": _EXPIRE,
        "admit": _ADMIT,
        "count": _COUNT,
        "leave": _LEAVE,
        "sit": _SIT,
        "put": PUT,
        "put_once": PUT_ONCE,
        "swap": SWAP,
        "look": LOOK,
        "strike": STRIKE,
        "revision": REVISION,
        "begin": BEGIN,
        "turn": TURN,
    }
)
