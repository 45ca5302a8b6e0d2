-- Which engines are there: a sorted set of their names, by the time (microseconds) until which each is believed.
-- KEYS[1]: it. ARGV[2]: what to do, ARGV[4]: the engine's name, ARGV[5]: for how many microseconds.

local calls = {}

-- The answer is whether this engine is the first of all: it does what one should do for all.
function calls.beat()
    redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', whole(now))
    redis.call('ZADD', KEYS[1], whole(now + ARGV[5]), ARGV[4])
    local first = ARGV[4]
    for _, each in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
        first = each < first and each or first
    end
    return first == ARGV[4] and 1 or 0
end

function calls.leave()
    return redis.call('ZREM', KEYS[1], ARGV[4])
end

-- How many there are.
function calls.count()
    return redis.call('ZCOUNT', KEYS[1], '(' .. whole(now), '+inf')
end

return calls[ARGV[2]]()
