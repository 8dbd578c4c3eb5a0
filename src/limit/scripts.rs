//! What runs inside Redis, each on one key, so that a cluster runs it as well.
//!
//! Times are the server's, so that nodes need not agree on theirs; names, scores and members of
//! the log are Tyk's (`internal/rate/sliding_log.go`), so that Tyk gateways beside us count the
//! same requests. Every script sets the key's expiry itself.

use crate::storage::Script;

/// Credits of a leased limit. Arguments: rate, per (ms), wanted, used without credit, given back.
/// Answers: granted, milliseconds until something is free again (0: something is), granted in all
/// within the window.
///
/// The value is a list: the last time seen, then start and credits of each slot. A slot takes what
/// is granted within a hundredth of `per` and counts until its last moment is `per` old.
pub(super) static LEASE: Script = Script::new(
    "local rate, per = tonumber(ARGV[1]), tonumber(ARGV[2])
local want, used, back = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local width = math.max(1, math.floor(per / 100))
local raw = redis.call('GET', KEYS[1])
local old = raw and cmsgpack.unpack(raw) or {}
-- A clock that was set back takes along what was granted by it.
local shift = 0
if old[1] and old[1] > now then shift = old[1] - now end
local state, sum = {now}, 0
for i = 2, #old, 2 do
  local at = old[i] - shift
  if at + width + per > now then
    state[#state + 1] = at
    state[#state + 1] = old[i + 1]
    sum = sum + old[i + 1]
  end
end
for i = #state, 3, -2 do
  local less = math.min(back, state[i])
  state[i] = state[i] - less
  back = back - less
  sum = sum - less
end
sum = sum + used
local granted = math.max(0, math.min(want, rate - sum))
sum = sum + granted
if used + granted > 0 then
  if #state > 1 and now - state[#state - 1] < width then
    state[#state] = state[#state] + used + granted
  else
    state[#state + 1] = now
    state[#state + 1] = used + granted
  end
end
local wait = 0
if sum >= rate then
  local over = sum - rate + 1
  for i = 2, #state, 2 do
    over = over - state[i + 1]
    if over <= 0 then
      wait = state[i] + width + per - now
      break
    end
  end
end
redis.call('SET', KEYS[1], cmsgpack.pack(state), 'PX', per + 2 * width)
return {granted, wait, sum}",
);

/// The exact log: an entry for each admitted request. Arguments: rate, per (ms), wanted, admitted
/// elsewhere. Answers: admitted, milliseconds until the next can be (0: now), entries.
pub(super) static EXACT: Script = Script::new(
    "local rate, per = tonumber(ARGV[1]), tonumber(ARGV[2])
local want, used = tonumber(ARGV[3]), tonumber(ARGV[4])
local t = redis.call('TIME')
local now, k = t[1] * 1000000 + t[2], 0
local function put(n)
  while n > 0 do
    if k == 1000 then now, k = now + 1, 0 end
    local member = string.format('%.0f%03d', now, k)
    k = k + 1
    n = n - redis.call('ZADD', KEYS[1], 'NX', member, member)
  end
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f000', now - per * 1000))
-- Entries of a future beyond any honest clock would close the limit until then.
redis.call('ZREMRANGEBYSCORE', KEYS[1], string.format('(%.0f000', now + per * 1000), '+inf')
local count = redis.call('ZCARD', KEYS[1])
local start = now
put(used)
count = count + used
local granted = math.max(0, math.min(want, rate - count))
put(granted)
count = count + granted
if used + granted > 0 then redis.call('PEXPIRE', KEYS[1], per) end
local wait = 0
if count >= rate then
  local leaving = redis.call('ZRANGE', KEYS[1], count - rate, count - rate, 'WITHSCORES')
  wait = math.max(1, math.ceil((tonumber(leaving[2]) / 1000 - start) / 1000 + per))
end
return {granted, wait, count}",
);

/// Tyk's log: an entry for each request. Arguments: per (ms), requests, how long the key lives (s).
/// Answers the entries that were there before.
pub(super) static LOG: Script = Script::new(
    "local per, n = tonumber(ARGV[1]), tonumber(ARGV[2])
local t = redis.call('TIME')
local now, k = t[1] * 1000000 + t[2], 0
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f000', now - per * 1000))
redis.call('ZREMRANGEBYSCORE', KEYS[1], string.format('(%.0f000', now + per * 1000), '+inf')
local count = redis.call('ZCARD', KEYS[1])
while n > 0 do
  if k == 1000 then now, k = now + 1, 0 end
  local member = string.format('%.0f%03d', now, k)
  k = k + 1
  n = n - redis.call('ZADD', KEYS[1], 'NX', member, member)
end
redis.call('EXPIRE', KEYS[1], ARGV[3])
return count",
);

/// Whether a key is there.
pub(super) static IS_SET: Script = Script::new("return redis.call('EXISTS', KEYS[1])");

/// Marks a limiter as exceeded. Argument: seconds. Answers nothing of use.
pub(super) static MARK: Script = Script::new(
    "redis.call('SET', KEYS[1], '1', 'NX', 'EX', ARGV[1])
return 0",
);

/// Tyk's fixed window. Arguments: requests, milliseconds that are left of the window. Answers the
/// count with them.
pub(super) static FIXED: Script = Script::new(
    "local count = redis.call('INCRBY', KEYS[1], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return count",
);

/// A quota's counter. Arguments: wanted; 1 to count refused ones as well; maximum; seconds of a
/// period (0: no end); a grant is at most the rest divided by this (0: all of it); 1 when the time
/// of renewal that the session has is over; units to count whatever happens; units that requests
/// wait for, which are granted while there are any; refused ones, which count while the counter is
/// at its end (after a reset they are nobody's); units that are granted to nobody, because what was
/// used is being told over another connection. Answers: granted, the counter, milliseconds left of
/// the period (-1: no end), the server's time (ms).
pub(super) static QUOTA: Script = Script::new(
    "local want, all, max = tonumber(ARGV[1]), ARGV[2] == '1', tonumber(ARGV[3])
local renewal, share = tonumber(ARGV[4]), tonumber(ARGV[5])
local extra = tonumber(ARGV[7])
local n = tonumber(redis.call('GET', KEYS[1]) or '0')
local ttl = redis.call('PTTL', KEYS[1])
-- A counter with an expiry is in its period; one without stays until the session says it is over.
if ttl == -1 and renewal > 0 and ARGV[6] == '1' and n + extra >= max then
  redis.call('DEL', KEYS[1])
  n, ttl = 0, -2
end
if n >= max then extra = extra + tonumber(ARGV[9]) end
local rest = max - n - extra
local granted = math.max(0, math.min(want, rest - tonumber(ARGV[10])))
if share > 0 then
  granted = math.min(granted, math.max(1, tonumber(ARGV[8]), math.floor(rest / share)))
end
local add = granted + extra
if all then add = want + extra end
if add > 0 then
  n = redis.call('INCRBY', KEYS[1], string.format('%.0f', add))
  if ttl == -2 and renewal > 0 then redis.call('EXPIRE', KEYS[1], renewal) end
end
local t = redis.call('TIME')
ttl = redis.call('PTTL', KEYS[1])
if ttl == -2 then ttl = renewal > 0 and renewal * 1000 or -1 end
return {granted, n, ttl, t[1] * 1000 + math.floor(t[2] / 1000)}",
);

/// Gives units of a quota back if its period is still the one they are from. Arguments: units, the
/// server's time at which that period ends (ms; -1: it does not). Answers 1 when they were taken.
pub(super) static QUOTA_BACK: Script = Script::new(
    "local back, ends = tonumber(ARGV[1]), tonumber(ARGV[2])
local n = tonumber(redis.call('GET', KEYS[1]) or '0')
if n < back then return 0 end
local ttl = redis.call('PTTL', KEYS[1])
if ends == -1 then
  if ttl ~= -1 then return 0 end
else
  if ttl < 0 then return 0 end
  local t = redis.call('TIME')
  if math.abs(t[1] * 1000 + math.floor(t[2] / 1000) + ttl - ends) > 1000 then return 0 end
end
redis.call('DECRBY', KEYS[1], string.format('%.0f', back))
return 1",
);

/// The allowance of a smoothed limit, as Tyk keeps it. Answers `current` and `nextUpdateAt`.
pub(super) static ALLOWANCE: Script =
    Script::new("return redis.call('HMGET', KEYS[1], 'current', 'nextUpdateAt')");

/// Stores an allowance. Arguments: delay (s), current, nextUpdateAt.
pub(super) static SET_ALLOWANCE: Script = Script::new(
    "redis.call('HSET', KEYS[1], 'delay', ARGV[1], 'current', ARGV[2], 'nextUpdateAt', ARGV[3])
redis.call('EXPIRE', KEYS[1], 2 * ARGV[1])
return 0",
);
