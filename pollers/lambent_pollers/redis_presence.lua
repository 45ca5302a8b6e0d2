-- Which engines are there: a sorted set of their names, by the time (microseconds) until which each is believed.
-- KEYS[1]: it. ARGV[2]: what to do, ARGV[4]: the engine's name, ARGV[5]: for how many microseconds.

local calls = {}

-- The answer is whether this engine was not there before, and the names of all that are.
function calls.beat()
    redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', whole(now))
    local new = redis.call('ZADD', KEYS[1], whole(now + ARGV[5]), ARGV[4])
    local told = redis.call('ZRANGE', KEYS[1], 0, -1)
    table.insert(told, 1, new)
    return told
end

function calls.leave()
    return redis.call('ZREM', KEYS[1], ARGV[4])
end

-- How many there are.
function calls.count()
    return redis.call('ZCOUNT', KEYS[1], '(' .. whole(now), '+inf')
end

return calls[ARGV[2]]()
