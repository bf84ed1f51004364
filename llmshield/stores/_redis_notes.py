"""Lua of the Redis store that is not about amounts: which book this is, and the notes.

    book                hash   e: the epoch (or `lost`, or `rebuilding:EPOCH`); n: steps that changed the book
    book-past           set    of epochs that this one replaces: who knows one goes on in this one
    book-doubted        set    of epochs that processes know and this Redis does not
    notes:SHELF         hash   of KEY: end in ms, a space, the value
    notes-end           zset   of SHELF, a line feed, KEY by the end of the note
    notes-revision      hash   of SHELF

Every step of the book begins with `CHECK`, so there is no moment at which a Redis without its data is a fresh budget.
A caller gives the epoch that it knows and the number of steps that it has seen: a Redis that went back to an older
copy of its data is found out as well.
"""

from __future__ import annotations

CHECK = """
local P = KEYS[1]
local SEEN = tonumber(table.remove(ARGV))
local EPOCH = table.remove(ARGV)
local book = redis.call('HMGET', P .. 'book', 'e', 'n')
local N = tonumber(book[2] or '0')
if book[1] ~= EPOCH or N < SEEN then
  local there = book[1]
  local shut = there and (there == 'lost' or string.sub(there, 1, 11) == 'rebuilding:')
  local past = EPOCH == '' or redis.call('SISMEMBER', P .. 'book-past', EPOCH) == 1
  if there and not shut and past then return {err = 'PAST ' .. there} end
  if not past then
    redis.call('SADD', P .. 'book-doubted', EPOCH)
    if not shut then redis.call('HSET', P .. 'book', 'e', 'lost') end
  end
  return {err = 'LOST the book'}
end
local function step()
  N = N + 1
  redis.call('HSET', P .. 'book', 'n', string.format('%d', N))
end
"""

# A first installation: ARGV the epoch that it gets, if there is none.
BEGIN = """
redis.call('HSETNX', KEYS[1] .. 'book', 'e', ARGV[1])
return redis.call('HGET', KEYS[1] .. 'book', 'e')
"""

# ARGV: the new epoch, `1` to forget every amount, the epochs that it replaces
TURN = """
local P = KEYS[1]
local there = redis.call('HGET', P .. 'book', 'e')
if there and there ~= 'lost' and string.sub(there, 1, 11) ~= 'rebuilding:' and there ~= ARGV[1] then
  redis.call('SADD', P .. 'book-past', there)
end
for i = 3, #ARGV do redis.call('SADD', P .. 'book-past', ARGV[i]) end
redis.call('HSET', P .. 'book', 'e', ARGV[1])
if ARGV[1] ~= 'lost' and string.sub(ARGV[1], 1, 11) ~= 'rebuilding:' then
  for _, id in ipairs(redis.call('SMEMBERS', P .. 'book-doubted')) do redis.call('SADD', P .. 'book-past', id) end
  redis.call('DEL', P .. 'book-doubted')
  redis.call('SREM', P .. 'book-past', ARGV[1])
end
if ARGV[2] == '1' then
  for _, name in ipairs(redis.call('SMEMBERS', P .. 'accounts')) do redis.call('DEL', P .. 'acc:' .. name) end
  for _, id in ipairs(redis.call('ZRANGE', P .. 'due', 0, -1)) do redis.call('DEL', P .. 'hold:' .. id) end
  redis.call('DEL', P .. 'accounts', P .. 'due')
end
return 0
"""

# ARGV of the notes: shelf first. A value may hold any byte; it is parted from its end at the first space.
NOTES = """
local S, K = ARGV[1], ARGV[2]
local function there(now)
  local note = redis.call('HGET', P .. 'notes:' .. S, K)
  if not note then return nil end
  local at = string.find(note, ' ', 1, true)
  local ends = tonumber(string.sub(note, 1, at - 1))
  if ends > 0 and ends <= now then return nil end
  return string.sub(note, at + 1)
end
local function changed(shelf)
  -- beyond whatever a lost Redis had: microseconds since 1970, or one more
  local time = redis.call('TIME')
  local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
  local last = tonumber(redis.call('HGET', P .. 'notes-revision', shelf) or '0')
  redis.call('HSET', P .. 'notes-revision', shelf, string.format('%d', math.max(last + 1, now)))
end
local function write(value, ends)
  redis.call('HSET', P .. 'notes:' .. S, K, ends .. ' ' .. value)
  local member = S .. '\\n' .. K
  if ends == '0' then redis.call('ZREM', P .. 'notes-end', member)
  else redis.call('ZADD', P .. 'notes-end', ends, member) end
  changed(S)
end
local function remove(shelf, key)
  local found = redis.call('HDEL', P .. 'notes:' .. shelf, key)
  redis.call('ZREM', P .. 'notes-end', shelf .. '\\n' .. key)
  if found == 1 then changed(shelf) end
  return found
end
"""

PUT = CHECK + NOTES + "write(ARGV[3], ARGV[4]) return 0"
PUT_ONCE = (
    CHECK
    + NOTES
    + "local note = there(tonumber(ARGV[5])) if not note then write(ARGV[3], ARGV[4]) end return note"
)
# ARGV[6], where it is there, is what stands there now; it is nil where nothing does.
SWAP = (
    CHECK
    + NOTES
    + """
local note = there(tonumber(ARGV[5]))
if note ~= ARGV[6] then return note end
write(ARGV[3], ARGV[4])
return ARGV[3]
"""
)
LOOK = CHECK + NOTES + "return there(tonumber(ARGV[3]))"
STRIKE = CHECK + NOTES + "return remove(S, K)"
REVISION = CHECK + "return tonumber(redis.call('HGET', P .. 'notes-revision', ARGV[1]) or '0')"
