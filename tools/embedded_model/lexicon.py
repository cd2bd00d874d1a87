"""Word lists for the base's vocabulary skills: kinds of things, opposites, forms of words. Plain data."""

from __future__ import annotations

# kind of countable things -> its members; no word is in two kinds or is an animal or thing of the world
KINDS = {
    "bird": "heron stork finch sparrow raven magpie falcon hawk kestrel lark wren thrush pelican flamingo ostrich "
    "peacock turkey pheasant quail vulture woodpecker cuckoo kingfisher nightingale puffin swallow starling jackdaw "
    "bullfinch cormorant",
    "fish": "trout cod herring carp pike perch tuna mackerel sardine eel haddock plaice halibut flounder minnow ray "
    "sturgeon anchovy stickleback catfish",
    "mammal": "badger weasel stoat marten moose elk reindeer antelope gazelle buffalo bison leopard cheetah panther "
    "jaguar lynx hyena jackal raccoon skunk opossum sloth armadillo anteater rhinoceros hippopotamus walrus porpoise "
    "gorilla chimpanzee baboon lemur koala wombat mole shrew vole dormouse llama alpaca yak mule panda hare",
    "insect": "wasp hornet moth dragonfly grasshopper ladybird mosquito gnat flea termite locust mantis cicada earwig "
    "aphid weevil firefly cockroach",
    "tree": "oak elm ash beech birch willow poplar maple chestnut walnut hazel alder larch spruce pine fir cedar yew "
    "cypress palm sycamore rowan hawthorn linden redwood",
    "flower": "tulip daffodil daisy lily orchid violet pansy poppy primrose snowdrop crocus marigold sunflower "
    "carnation dahlia peony iris jasmine lavender bluebell buttercup dandelion foxglove geranium hyacinth magnolia",
    "fruit": "banana lemon orange peach apricot mango papaya pineapple coconut kiwi lime grapefruit raspberry "
    "strawberry blackberry blueberry gooseberry cranberry nectarine tangerine quince date raisin currant pomegranate",
    "vegetable": "turnip parsnip radish beetroot leek celery lettuce cucumber courgette marrow aubergine artichoke "
    "broccoli cauliflower sprout asparagus pepper shallot swede yam chicory",
    "tool": "chisel drill wrench spanner pliers screwdriver mallet axe hatchet crowbar clamp plane file sickle scythe "
    "shovel pickaxe trowel hoe pitchfork vice lathe anvil tongs pincers awl",
    "instrument": "piano guitar cello trumpet trombone tuba clarinet oboe bassoon harp organ accordion banjo mandolin "
    "saxophone xylophone tambourine triangle bagpipe lute lyre piccolo harmonica ukulele gong cymbal bugle",
    "garment": "shirt blouse jumper cardigan sweater jacket waistcoat vest skirt dress apron cloak cape scarf shawl "
    "glove mitten sock stocking trousers shorts pyjamas gown robe uniform tunic kilt raincoat overcoat",
    "hat": "cap bonnet beret helmet turban bowler hood crown sombrero",
    "shoe": "sandal slipper sneaker clog moccasin trainer",
    "piece of furniture": "sofa armchair stool bench couch bookcase sideboard dresser cabinet bunk cradle hammock "
    "footstool bureau",
    "vehicle": "car lorry truck van bus tram taxi tractor bicycle tricycle scooter motorbike wagon carriage coach "
    "ambulance caravan wheelbarrow rickshaw sleigh",
    "ship": "canoe kayak yacht raft barge tanker liner galleon frigate schooner dinghy gondola tugboat trawler steamer",
    "aircraft": "aeroplane helicopter glider balloon airship jet biplane",
    "building": "cottage cabin palace temple chapel cathedral abbey monastery factory warehouse hospital hotel inn "
    "theatre cinema prison stable greenhouse lighthouse windmill skyscraper bungalow mansion villa hut cowshed "
    "gymnasium bakery brewery",
    "room": "bedroom bathroom nursery cellar parlour lounge study larder corridor lobby dormitory laundry dungeon "
    "ballroom classroom",
    "container": "barrel crate carton tub vat flask jug pitcher vase urn pouch purse suitcase trunk hamper tray "
    "envelope wallet satchel rucksack casket thermos kennel",
    "jewel": "diamond ruby emerald sapphire pearl topaz opal garnet amethyst turquoise",
    "shape": "circle square rectangle oval pentagon hexagon cube sphere cone cylinder pyramid spiral crescent diagonal",
    "part of the body": "head neck shoulder elbow wrist hand thumb knuckle chest waist hip thigh knee ankle heel toe "
    "chin cheek forehead eyebrow eyelid nostril lip tongue tooth jaw throat lung liver kidney stomach spine rib skull "
    "muscle",
    "relative": "mother father sister brother uncle aunt cousin nephew niece grandmother grandfather grandson "
    "granddaughter husband wife",
    "kind of land": "hill plain plateau canyon cliff glacier volcano peninsula marsh swamp prairie tundra dune delta "
    "gorge moor ridge summit",
    "kind of water": "brook creek stream waterfall lagoon ocean bay canal fountain reservoir puddle rapids geyser "
    "estuary whirlpool",
    "weapon": "sword dagger spear lance bow arrow catapult shield cannon musket sabre javelin",
    "toy": "rattle yoyo puppet teddy skittle trampoline seesaw swing jigsaw whistle skateboard",
    "machine": "computer printer telephone radio television camera fridge freezer oven toaster blender microscope "
    "typewriter calculator lawnmower elevator generator turbine",
    "meal": "breakfast lunch dinner supper picnic banquet feast snack",
    "bone": "femur tibia humerus vertebra pelvis collarbone",
    "snake": "adder cobra python viper rattlesnake anaconda boa",
    "dog": "poodle terrier spaniel beagle bulldog greyhound collie dachshund corgi labrador dalmatian mastiff",
    "planet": "mercury venus saturn jupiter neptune uranus",
}  # fmt: skip

# kinds of substances, games and times, whose members take no article
PLAIN_KINDS = {
    "herb": "basil mint parsley thyme sage rosemary oregano dill chives tarragon coriander fennel",
    "spice": "cinnamon ginger nutmeg saffron paprika cumin cloves vanilla turmeric mustard",
    "drink": "milk coffee cocoa lemonade cider beer brandy cordial squash tonic",
    "metal": "copper zinc lead nickel aluminium platinum titanium pewter",
    "cloth": "cotton linen velvet satin denim corduroy flannel tweed lace gauze nylon muslin",
    "sport": "hockey rugby cycling wrestling boxing fencing volleyball basketball badminton baseball "
    "gymnastics polo judo karate surfing netball lacrosse",
    "dance": "waltz tango polka ballet samba flamenco jive foxtrot minuet",
    "game": "draughts dominoes backgammon billiards snooker hopscotch leapfrog charades marbles solitaire poker bingo",
    "cheese": "cheddar brie parmesan mozzarella gouda camembert",
    "grain": "wheat barley oats rye maize millet",
    "stone": "granite marble slate limestone sandstone flint chalk basalt",
    "month": "January February March April May July August September October November December",
    "day": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
    "season": "spring summer autumn winter",
    "science": "chemistry biology geology astronomy botany zoology geometry algebra",
    "illness": "measles mumps influenza pneumonia asthma chickenpox",
    "feeling": "anger joy sorrow envy fear pride shame boredom delight jealousy gratitude loneliness",
}  # fmt: skip

# each word and its opposite; a word occurs once
OPPOSITES = (
    "narrow wide|deep shallow|early late|empty full|heavy light|high low|hard soft|thick thin|rich poor|rough smooth|"
    "sharp blunt|wet dry|wild tame|tight loose|sweet sour|bitter mild|bright dim|near far|first last|true false|"
    "safe dangerous|raw cooked|guilty innocent|cruel kindly|generous selfish|humble arrogant|modest boastful|"
    "ancient modern|rare frequent|public private|single double|upper lower|inner outer|absent present|alive dead|"
    "awake asleep|cheap costly|clean filthy|clear cloudy|coarse delicate|crooked straight|fresh stale|flat steep|"
    "freezing boiling|gradual sudden|healthy ill|huge tiny|idle industrious|legal illegal|liquid solid|loud silent|"
    "major minor|married unmarried|noble wicked|open shut|optimistic pessimistic|ordinary extraordinary|"
    "patient impatient|plentiful scarce|positive negative|possible impossible|permanent temporary|ripe unripe|"
    "simple complicated|slim stout|stiff flexible|strict lenient|tidy messy|urgent unimportant|"
    "useful useless|vague precise|vacant occupied|visible invisible|wise foolish|wealthy penniless|"
    "above below|always never|before after|inside outside|left right|everything nothing|everybody nobody|forwards "
    "backwards|upstairs downstairs|north south|east west|beginning ending|victory defeat|success failure|truth lie|"
    "friend enemy|hero villain|question answer|entrance exit|profit loss|strength weakness|courage cowardice|"
    "hope despair|peace war|beauty ugliness|daylight darkness|heat chill|arrival departure|birth death|"
    "accept refuse|arrive depart|attack defend|begin finish|borrow lend|build destroy|buy sell|create ruin|"
    "enter leave|fill drain|float sink|forget remember|freeze melt|gain lose|gather scatter|give take|"
    "increase decrease|laugh weep|love hate|obey disobey|praise blame|pull push|punish reward|"
    "reveal conceal|rise fall|save waste|shout whisper|start stop|tie untie|lock unlock|wrap unwrap|appear disappear|"
    "agree disagree|connect separate|include exclude|import export|expand shrink|admit deny|allow forbid"
)  # fmt: skip

# two words with the same meaning
SAME = (
    "glad joyful|frightened afraid|furious enraged|weary exhausted|enormous gigantic|little minute|swift rapid|"
    "slow sluggish|smart intelligent|stupid silly|strange peculiar|odd weird|lovely charming|ugly hideous|"
    "famous celebrated|lonely solitary|eager keen|stubborn obstinate|sly cunning|brave courageous|"
    "rich affluent|shiny gleaming|wonderful marvellous|terrible dreadful|correct accurate|whole entire|"
    "necessary essential|usual customary|strong sturdy|weak feeble|thin slender|fat plump|pale colourless|"
    "hungry starving|damp moist|chilly frosty|empty hollow|broken shattered|hidden secret|"
    "jump leap|throw hurl|shut close|speak talk|look gaze|cry sob|mend repair|hurry rush|walk stroll|wander roam|"
    "grab seize|choose select|collect assemble|help assist|ask inquire|reply respond|tell inform|show display|"
    "try attempt|want desire|need require|like enjoy|dislike detest|change alter|hurt injure|tremble shiver|"
    "grumble complain|boast brag|argue quarrel|pardon forgive|trick deceive|annoy irritate|surprise astonish|"
    "frighten terrify|calm soothe|search seek|halt pause|shine glow|sparkle glitter|"
    "gift present|trip journey|road street|forest woods|stone rock|sea ocean|shore coast|thief robber|"
    "reward prize|error mistake|job occupation|doctor physician|attorney lawyer|pupil scholar|buddy comrade|"
    "illness disease|riddle puzzle|story tale|noise racket|smell odour|fight struggle|fog mist|edge border|"
    "middle centre|top peak|bottom base|corner nook|crowd throng|hill mound|bag sack|rubbish trash"
)  # fmt: skip

# a verb and its past tense
PAST = (
    "be was|bring brought|build built|burst burst|buy bought|catch caught|choose chose|come came|creep crept|dig dug|"
    "do did|draw drew|dream dreamt|drink drank|drive drove|eat ate|fall fell|feed fed|feel felt|fight fought|"
    "find found|fly flew|forget forgot|forgive forgave|freeze froze|get got|give gave|go went|grow grew|hang hung|"
    "have had|hear heard|hide hid|hold held|keep kept|kneel knelt|know knew|lead led|lean leant|leap leapt|leave left|"
    "lend lent|lie lay|light lit|lose lost|make made|mean meant|meet met|pay paid|ride rode|ring rang|rise rose|"
    "run ran|say said|see saw|seek sought|sell sold|send sent|shake shook|shine shone|shoot shot|show showed|"
    "shrink shrank|sing sang|sink sank|sit sat|sleep slept|slide slid|smell smelt|speak spoke|spend spent|spill spilt|"
    "spin spun|stand stood|steal stole|stick stuck|sting stung|strike struck|swear swore|sweep swept|swim swam|"
    "swing swung|take took|teach taught|tear tore|tell told|think thought|throw threw|understand understood|wake woke|"
    "wear wore|weave wove|weep wept|win won|wind wound|write wrote|bite bit|blow blew|break broke|breed bred|"
    "burn burnt|cling clung|deal dealt|flee fled|fling flung|grind ground|swell swelled|spread spread|"
    "answer answered|arrange arranged|arrest arrested|bake baked|balance balanced|bargain bargained|blink blinked|"
    "bounce bounced|bow bowed|breathe breathed|brush brushed|bury buried|carve carved|chase chased|chew chewed|"
    "chuckle chuckled|climb climbed|comb combed|cough coughed|crawl crawled|dance danced|decide decided|"
    "deliver delivered|discover discovered|divide divided|drag dragged|drop dropped|empty emptied|escape escaped|"
    "explain explained|explore explored|fetch fetched|fold folded|follow followed|gallop galloped|giggle giggled|"
    "greet greeted|grin grinned|hammer hammered|harvest harvested|hop hopped|imagine imagined|invent invented|"
    "invite invited|juggle juggled|knock knocked|lick licked|listen listened|march marched|measure measured|"
    "mix mixed|mow mowed|nod nodded|notice noticed|obey obeyed|order ordered|paint painted|peel peeled|plant planted|"
    "plough ploughed|polish polished|pour poured|practise practised|promise promised|rescue rescued|roast roasted|"
    "rub rubbed|sail sailed|scrub scrubbed|shave shaved|shrug shrugged|sigh sighed|skip skipped|slip slipped|"
    "smile smiled|sneeze sneezed|snore snored|squeeze squeezed|stare stared|stir stirred|stumble stumbled|"
    "travel travelled|trip tripped|trust trusted|wait waited|wash washed|water watered|wave waved|whistle whistled|"
    "wipe wiped|wonder wondered|worry worried|yawn yawned"
)  # fmt: skip

# singular and plural
PLURALS = (
    "leaf leaves|mouse mice|goose geese|foot feet|tooth teeth|man men|woman women|child children|ox oxen|knife knives|"
    "wife wives|wolf wolves|shelf shelves|loaf loaves|thief thieves|calf calves|half halves|scarf scarves|hoof hooves|"
    "baby babies|berry berries|city cities|country countries|daisy daisies|fairy fairies|family families|fly flies|"
    "lady ladies|penny pennies|pony ponies|puppy puppies|story stories|army armies|body bodies|box boxes|brush "
    "brushes|bus buses|church churches|class classes|coach coaches|cross crosses|dish dishes|dress dresses|fox foxes|"
    "glass glasses|match matches|peach peaches|watch watches|witch witches|branch branches|bench benches|lunch lunches|"
    "potato potatoes|tomato tomatoes|hero heroes|echo echoes|volcano volcanoes|piano pianos|photo photos|"
    "sheep sheep|deer deer|salmon salmon|trout trout|crisis crises|person people|monkey monkeys|donkey donkeys|"
    "key keys|toy toys|boy boys|valley valleys|chimney chimneys|turkey turkeys|cottage cottages|bridge bridges"
)  # fmt: skip

# an animal and its young
YOUNG = (
    "horse foal|cow calf|sheep lamb|goat kid|dog puppy|cat kitten|lion cub|pig piglet|hen chick|duck duckling|"
    "goose gosling|swan cygnet|frog tadpole|deer fawn|kangaroo joey|hare leveret|owl owlet|eagle eaglet|"
    "butterfly caterpillar|eel elver|bee larva|salmon smolt"
)  # fmt: skip

# who does what
TRADES = (
    "cobbler mends shoes|blacksmith shoes horses|tanner makes leather|cooper makes barrels|thatcher roofs cottages|"
    "glazier fits windows|stonecutter shapes granite|sculptor carves statues|architect plans buildings|"
    "surveyor measures land|gamekeeper guards forests|lumberjack fells trees|shipwright builds ships|"
    "captain commands a ship|admiral commands a fleet|astronaut travels into space|astronomer studies the stars|"
    "botanist studies plants|geologist studies rocks|historian studies the past|archaeologist digs up ruins|"
    "zookeeper feeds animals|vet heals animals|surgeon operates on patients|optician tests eyes|"
    "pharmacist sells medicine|midwife delivers babies|nanny minds children|headmaster runs a school|"
    "professor lectures students|translator translates languages|reporter reports news|novelist writes novels|"
    "composer composes symphonies|conductor conducts an orchestra|pianist plays the piano|violinist plays the violin|"
    "organist plays the organ|trumpeter blows a trumpet|choirboy sings hymns|acrobat walks a tightrope|"
    "clown makes people laugh|stuntman risks his neck|goalkeeper stops goals|referee blows the whistle|"
    "jockey rides racehorses|lifeguard saves swimmers|fireman puts out fires|policeman catches thieves|"
    "sheriff arrests outlaws|spy discovers secrets|diplomat negotiates treaties|mayor governs a city|"
    "senator debates laws|king rules a kingdom|cashier counts change|accountant checks accounts|"
    "auctioneer sells antiques|broker trades shares|pedlar sells trinkets|fishmonger sells fish|"
    "greengrocer sells vegetables|ironmonger sells tools|milkman delivers milk|stationer sells paper|"
    "tobacconist sells pipes|confectioner makes sweets|chef prepares meals|brewer brews beer|"
    "cheesemaker makes cheese|distiller makes brandy|vintner makes wine|dairymaid milks cows|"
    "ploughman ploughs fields|stableboy feeds horses|gravedigger digs graves|undertaker arranges funerals|"
    "hatter makes hats|seamstress sews dresses|furrier sells furs|dyer colours cloth|spinner spins yarn|"
    "bookbinder binds books|engraver engraves plates|photographer takes photographs|electrician lays cables|"
    "programmer writes programs|plasterer smooths walls|bricklayer lays bricks|sweep cleans chimneys|"
    "janitor sweeps corridors|watchman guards gates|butler serves guests|chambermaid makes beds|"
    "chauffeur drives limousines|coachman drives carriages|ferryman crosses rivers|trapper sets traps|"
    "prospector seeks gold|explorer discovers islands|missionary preaches sermons|hermit lives alone|"
    "wizard casts spells|knight fights dragons|archer shoots arrows|minstrel sings ballads|jester tells jokes"
)  # fmt: skip


def pairs(lines: str) -> list[tuple[str, str]]:
    """(first word, the rest) of each entry."""
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in lines.split("|")]


def members() -> dict[str, tuple[str, bool]]:
    """{noun: (its kind, whether it takes an article)}."""
    counted = {noun: (kind, True) for kind, nouns in KINDS.items() for noun in nouns.split()}
    return counted | {noun: (kind, False) for kind, nouns in PLAIN_KINDS.items() for noun in nouns.split()}
